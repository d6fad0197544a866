//! `pulse stat` along a series: tables, JSON as documented, the page, and what it refuses.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::commands::fact;
use crate::{assert_keys, model, pulse, scene, target};
use testkit::files::{tensor, Files, Place};

/// Five checkpoints in which one more element of "w" is 1 each time; the fourth has a tensor more,
/// the fifth lacks it again and has another "v".
fn series() -> (Place, Vec<&'static str>) {
    let place = Place::new();
    let names =
        ["0.safetensors", "1.safetensors", "2.safetensors", "3.safetensors", "4.safetensors"];
    for (step, name) in names.iter().enumerate() {
        let w: Vec<u8> = (0..200).map(|element| u8::from(element < step)).collect();
        let v = if step == 4 { "I8" } else { "U8" };
        let mut tensors =
            vec![tensor("v", v, &[2], *b"vv"), tensor("layers.0.mlp.w", "U8", &[200], w)];
        if step == 3 {
            tensors.push(tensor("<b>new</b>", "U8", &[3], *b"new"));
        }
        place.put(name, &Files::one(&tensors));
    }
    (place, names.into())
}

fn stat(place: &Place, names: &[&str], more: &[&str]) -> crate::Run {
    pulse(place, &[&["stat"], names, more].concat())
}

/// The rows of the table with this head, in cells.
fn rows(out: &str, head: &str) -> Vec<Vec<String>> {
    let lines = out
        .lines()
        .skip_while(|line| !line.starts_with(head))
        .skip(1)
        .take_while(|line| !line.is_empty());
    let cells = |line: &str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(Into::into).collect()
    };
    lines.map(cells).collect()
}

#[test]
fn a_series_shows_each_step_and_longer_windows() {
    let (place, names) = series();
    let out = stat(&place, &names, &[]).done();
    let steps = rows(&out, "from");
    let starts = steps.iter().map(|row| row[..5].join(" ")).collect::<Vec<_>>();
    assert_eq!(starts, ["0 1 1 1 0.495%", "1 2 1 1 0.495%", "2 3 1 1 0.495%", "3 4 1 1 0.500%"]);
    assert_eq!(
        (steps[2].last().unwrap().as_str(), steps[3].last().unwrap().as_str()),
        ("1 added", "1 replaced, 1 deleted")
    );
    let windows = rows(&out, "window").iter().map(|row| row.join(" ")).collect::<Vec<_>>();
    assert_eq!(
        windows,
        [
            "1 step 4 0.496% 0.495% 0.500%",
            "2 steps 3 0.993% 0.990% 1.000%",
            "4 steps: 0 to 4 1 2.000% 2.000% 2.000%"
        ]
    );
    assert_eq!(fact(&out, "checkpoints"), "5: steps 0 to 4, from their names");
    // Of the model, not summed over the pairs: three pairs have 202 elements in common, one 200.
    assert_eq!(fact(&out, "changes"), "1 of 202 elements (0.496%) over 1 step, mean of 4 pairs");
    assert_eq!(fact(&out, "not compared"), "1 added, 1 replaced, 1 deleted");
    assert_eq!(rows(&out, "kind")[0], ["mlp", "1", "200", "1", "0.500%", "100.0%"]);
}

#[test]
fn sizes_are_those_of_diff_to_the_byte() {
    let place = scene();
    let json = pulse(&place, &["stat", "base.safetensors", "target.safetensors", "--json"]).json();
    let pair = &json["pairs"][0];
    for (coding, field) in [("contextual", "contextual_bytes"), ("flat", "flat_bytes")] {
        let diff = [
            "diff",
            "base.safetensors",
            "target.safetensors",
            "--coding",
            coding,
            "--force",
            "-o",
            "patch",
        ];
        pulse(&place, &diff).done();
        assert_eq!(
            pair[field].as_u64(),
            Some(fs::metadata(place.path("patch")).unwrap().len()),
            "{coding}"
        );
    }
    let full = fs::metadata(place.path("target.safetensors")).unwrap().len();
    assert_eq!(json["checkpoints"][1]["file_bytes"].as_u64(), Some(full));
    let way = &json["sync"]["ways"][2];
    assert_eq!(
        (way["way"].as_str(), way["mean_bytes"].as_f64()),
        (Some("full copy"), Some(full as f64))
    );

    let json =
        pulse(&place, &["stat", "base.safetensors", "target.safetensors", "--no-sizes", "--json"])
            .json();
    assert!(json["pairs"][0]["flat_bytes"].is_null());
    assert_eq!(json["sync"]["ways"].as_array().unwrap().len(), 1);
}

#[test]
fn a_shorter_interval_needs_more_bandwidth_and_a_faster_link_less_time() {
    let place = scene();
    let full = |interval: &str| {
        let args = [
            "stat",
            "base.safetensors",
            "target.safetensors",
            "--no-sizes",
            "--interval",
            interval,
            "--json",
        ];
        pulse(&place, &args).json()["sync"].clone()
    };
    let bits = 8.0 * fs::metadata(place.path("target.safetensors")).unwrap().len() as f64;
    for (interval, seconds) in [("60", 60.0), ("0.5", 0.5)] {
        let sync = full(interval);
        assert_eq!(sync["interval_seconds"].as_f64(), Some(seconds));
        assert_eq!(sync["ways"][0]["bits_per_second"].as_f64(), Some(bits / seconds));
        let links = sync["ways"][0]["links"].as_array().unwrap();
        let times: Vec<_> = links.iter().map(|link| link["seconds"].as_f64().unwrap()).collect();
        assert_eq!(times, [bits / 1e8, bits / 1e9, bits / 1e10]);
    }
    let out =
        pulse(&place, &["stat", "base.safetensors", "target.safetensors", "--interval", "0.5"])
            .done();
    assert!(out.contains("every 0.5 s"), "{out}");
}

/// The path of every value that is no object and no array of them.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            let dot = if path.is_empty() { "" } else { "." };
            object
                .iter()
                .for_each(|(key, value)| fields(value, &format!("{path}{dot}{key}"), found));
        }
        Value::Array(array) if !path.ends_with("[]") => {
            array.iter().for_each(|value| fields(value, &format!("{path}[]"), found));
        }
        _ => _ = found.insert(path.into()),
    }
}

#[test]
fn json_has_the_fields_that_are_documented_and_no_others() {
    let (place, names) = series();
    let mut printed = BTreeSet::new();
    fields(&stat(&place, &names, &["--json"]).json(), "", &mut printed);
    let page =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/stat-json.md")).unwrap();
    let documented = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    assert_eq!(printed, documented.map(|(field, _)| field.to_string()).collect());
}

#[test]
fn json_says_what_was_and_what_was_not_compared() {
    let (place, names) = series();
    let json = stat(&place, &names, &["--json"]).json();
    let labels: Vec<_> = json["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["label"].as_str().unwrap())
        .collect();
    assert_eq!(labels, ["0", "1", "2", "3", "4"]);
    let pairs = json["pairs"].as_array().unwrap();
    assert_eq!(pairs[2]["added"][0].as_str(), Some("<b>new</b>"));
    assert_eq!(
        (pairs[3]["replaced"][0].as_str(), pairs[3]["deleted"][0].as_str()),
        (Some("v"), Some("<b>new</b>"))
    );
    assert_keys(&json["windows"][0], &["length", "pairs", "mean", "min", "max"]);

    // Nothing in common is no density, not a density of nothing.
    place.put("other", &Files::one(&[tensor("other", "U8", &[1], *b"x")]));
    let json = stat(&place, &["0.safetensors", "other"], &["--json"]).json();
    assert!(json["typical"]["density"].is_null() && json["windows"][0]["mean"].is_null());
    assert!(stat(&place, &["0.safetensors", "other"], &[]).done().contains("0 of 0 elements (-)"));
}

#[test]
fn the_page_is_one_file_in_which_names_are_text() {
    let (place, names) = series();
    let out = stat(&place, &names, &["--html", "page.html"]).done();
    assert_eq!(out, stat(&place, &names, &[]).done(), "the page is extra");
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    assert!(page.contains("&lt;b&gt;new&lt;/b&gt;") && !page.contains("<b>new</b>"));
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert!(["http://", "https://", "src=", "@import", "url("]
        .iter()
        .all(|fetch| !page.contains(fetch)));
    for heading in
        ["Density over longer windows", "Patch sizes", "Parts of the model", "Step sizes in ULPs"]
    {
        assert!(page.contains(heading), "{heading}");
    }
    assert!(page.contains("2.000%") && !page.contains("NaN"));

    // It appears whole or not at all, and replaces nothing unasked.
    place.untouched(|| {
        stat(&place, &names, &["--html", "page.html"]).failed(&["page.html", "--force"])
    });
    stat(
        &place,
        &["0.safetensors", "0.safetensors"],
        &["--html", "page.html", "--force", "--no-sizes"],
    )
    .done();
    assert_ne!(fs::read_to_string(place.path("page.html")).unwrap(), page);
    place.untouched(|| {
        stat(&place, &names, &["--html", "no/such/page.html"]).failed(&["no/such/page.html"])
    });
}

#[test]
fn the_output_does_not_depend_on_the_number_of_threads() {
    let place = scene();
    place.put("third", &Files::one(&[&target()[..1], &model()[1..]].concat()));
    let names = ["base.safetensors", "target.safetensors", "third"];
    let run = |threads| stat(&place, &names, &["--threads", threads, "--json"]);
    assert_eq!(run("1"), run("3"));
}

#[test]
fn wrong_usage_and_missing_checkpoints_are_told() {
    let (place, names) = series();
    place.untouched(|| {
        stat(&place, &[], &[]).misused(&["BASE"]);
        stat(&place, &names[..1], &[]).misused(&["TARGET"]);
        for interval in ["0", "-1", "inf", "NaN", "soon"] {
            stat(&place, &names, &[&format!("--interval={interval}")])
                .misused(&["seconds greater than 0"]);
        }
        stat(&place, &names, &["--force"]).misused(&["--html"]);
        stat(&place, &names, &["--steps", "1,2"]).misused(&["2 steps for 5 checkpoints"]);
        stat(&place, &names, &["--steps", "1,2,3,5,4"]).misused(&["step 4 follows step 5"]);
        stat(&place, &names, &["--steps", "1,2,3,4,-5"]).misused(&["-5"]);
        // The checkpoint that is missing is named before anything is measured.
        stat(&place, &[&names[..], &["5.safetensors"]].concat(), &["--html", "page.html"])
            .failed(&["5.safetensors", "No such file"]);
    });
}

/// Checkpoints at steps 40, 41, 48 and 60; each step makes another of 100 elements 1.
fn uneven(name: impl Fn(u64) -> String) -> (Place, Vec<String>) {
    let place = Place::new();
    let names = [40, 41, 48, 60].map(|step| {
        let w: Vec<u8> = (0..100).map(|element| u8::from(element < step)).collect();
        fs::create_dir_all(place.path(&name(step)).parent().unwrap()).unwrap();
        place.put(&name(step), &Files::one(&[tensor("layers.0.mlp.w", "U8", &[100], w)]));
        name(step)
    });
    (place, names.into())
}

fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

#[test]
fn steps_from_names_or_told_keep_distances_apart() {
    let (place, names) = uneven(|step| format!("step_{step:04}.safetensors"));
    let by_name = stat(&place, &borrowed(&names), &[]).done();
    assert_eq!(fact(&by_name, "checkpoints"), "4: steps 40 to 60, from their names");
    assert_eq!(fact(&by_name, "changes"), "1 of 100 elements (1.000%) over 1 step");
    assert_eq!(
        fact(&by_name, "distances"),
        "1 to 12 steps between checkpoints; totals are for 1 step (1 of 6 pairs)"
    );
    let pairs = rows(&by_name, "from").iter().map(|row| row[..5].join(" ")).collect::<Vec<_>>();
    let expected = [
        "step_0040 step_0041 1 1 1.000%",
        "step_0041 step_0048 7 7 7.000%",
        "step_0048 step_0060 12 12 12.000%",
    ];
    assert_eq!(pairs, expected);
    let windows =
        rows(&by_name, "window").iter().map(|row| row[1..3].join(" ")).collect::<Vec<_>>();
    assert_eq!(
        windows,
        ["1 1.000%", "1 7.000%", "1 8.000%", "1 12.000%", "1 19.000%", "1 20.000%"]
    );
    assert!(by_name.contains("sync over 1 step"), "{by_name}");

    let (place, names) = uneven(|step| format!("{step} steps.safetensors"));
    let told = stat(&place, &borrowed(&names), &["--steps", "40,41,48,60"]).done();
    assert_eq!(fact(&told, "checkpoints"), "4: steps 40 to 60, from --steps");
    assert_eq!(fact(&told, "changes"), fact(&by_name, "changes"));

    // Without either it counts checkpoints, and says so.
    let counted = stat(&place, &borrowed(&names), &[]).done();
    assert_eq!(
        fact(&counted, "checkpoints"),
        "4: distances count checkpoints: the steps are unknown, see --steps"
    );
    assert_eq!(
        fact(&counted, "changes"),
        "7 of 100 elements (6.667%) over 1 checkpoint, mean of 3 pairs"
    );
    assert!(
        !rows(&counted, "from").is_empty() && !counted.contains("steps  changes  "),
        "{counted}"
    );
}

#[test]
fn json_of_uneven_steps_is_about_the_typical_distance() {
    let (place, names) = uneven(|step| format!("run/checkpoint-{step}/model.safetensors"));
    let json = stat(&place, &borrowed(&names), &["--json"]).json();
    assert_eq!((json["unit"].as_str(), json["steps_from"].as_str()), (Some("step"), Some("names")));
    let steps: Vec<_> = json["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [40, 41, 48, 60]);
    assert_eq!(json["typical"]["distance"], 1);
    assert_eq!(json["typical"]["mean_elements"], 100.0);
    assert_eq!(json["typical"]["density"], 0.01);
    let distances: Vec<_> = json["pairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair["distance"].as_u64().unwrap())
        .collect();
    assert_eq!(distances, [1, 7, 12, 8, 19, 20]);
    // What a synchronisation at every step sends is the patch over one step, not the mean of all.
    assert_eq!(json["sync"]["distance"], 1);
    assert_eq!(
        json["sync"]["ways"][0]["mean_bytes"].as_f64(),
        json["pairs"][0]["contextual_bytes"].as_f64()
    );

    let json =
        stat(&place, &borrowed(&names), &["--json", "--no-sizes", "--steps", "1,2,3,4"]).json();
    assert_eq!(
        (json["steps_from"].as_str(), json["windows"][0]["pairs"].as_u64()),
        (Some("option"), Some(3))
    );
}

#[test]
fn the_page_of_uneven_steps_has_an_axis_in_steps() {
    let (place, names) = uneven(|step| format!("step_{step}.safetensors"));
    stat(&place, &borrowed(&names), &["--html", "page.html"]).done();
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    // From 40 to 60: 41 is at a twentieth of the width, where there is no room for its label.
    for text in [
        ">step 40<",
        ">step 48<",
        ">step 60<",
        "step 41 to step 48: 7%",
        "density over 1 step",
        "for a patch over 1 step every 60 s",
        "1 to 12 steps between checkpoints",
        "optimizer steps",
        "2.00,93.33 6.80,93.33 6.80,53.33 40.40,53.33",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains(">step 41<") && !page.contains("300 elements"));
    // Evenly spaced checkpoints are points on a line.
    stat(&place, &borrowed(&names), &["--html", "page.html", "--force", "--steps", "10,20,30,40"])
        .done();
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    assert!(
        page.contains(">step 30<")
            && page.contains("over 10 steps")
            && !page.contains("drawn as wide")
    );
}

#[test]
fn checkpoints_out_of_order_by_their_names_are_refused() {
    let (place, names) = uneven(|step| format!("step_{step}.safetensors"));
    let mut wrong = borrowed(&names);
    wrong.swap(1, 3);
    place.untouched(|| {
        let order = names.join(" ");
        stat(&place, &wrong, &[]).misused(&["steps 40, 60, 48, 41;", &order, "--steps"]);
        stat(&place, &["step_40.safetensors", "missing_3"], &[]).failed(&["missing_3"]);
    });
    stat(&place, &wrong, &["--steps", "1,2,3,4", "--no-sizes"]).done();
}
