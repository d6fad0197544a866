//! What is printed follows the bytes of a patch, not the names and counts that these stand for.

use std::fs;

use testkit::files::Place;
use testkit::hostile::{all_steps, empty_tensors, long_metadata, tiny_tensors};

use super::pulse;

/// Patches of which a few bytes could become much text.
fn patches() -> Vec<(&'static str, Vec<u8>)> {
    let long = (0..255).map(|number| "\u{1}".repeat(4090) + &format!("{number:06}"));
    let mixed = (0..3000).map(|number| match number {
        0 => "n".repeat(4096),
        _ => format!("z{number}"),
    });
    vec![
        ("names of control characters", empty_tensors(long, 1)),
        ("one long name and many short ones", empty_tensors(mixed, 1)),
        ("many dimensions", empty_tensors((0..500).map(|n| format!("t{n}")), 64)),
        ("many stacks", empty_tensors((0..2000).map(|n| format!("s{n}.0.a")), 1)),
        ("many tensors", tiny_tensors(5000, 0)),
        ("metadata", long_metadata(1_000_000)),
    ]
}

fn longest_line(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

#[test]
fn views_of_a_forged_patch_are_a_few_times_its_size_and_no_line_is_long() {
    for (what, patch) in patches() {
        let place = Place::new();
        fs::write(place.root().join("p"), &patch).unwrap();
        for view in [&[][..], &["--tensors"], &["--sort", "name"], &["--bytes", "--files"]] {
            let text = pulse(&place, &[&["inspect", "p"], view].concat()).done();
            assert!(text.len() < 12 * patch.len() + (1 << 18), "{what} {view:?}: {}", text.len());
            assert!(longest_line(&text) < 1200, "{what} {view:?}: {}", longest_line(&text));
        }
        pulse(&place, &["inspect", "p", "--quiet", "--html", "page"]).done();
        let page = fs::read_to_string(place.root().join("page")).unwrap();
        assert!(page.len() < 12 * patch.len() + (1 << 18), "{what}: page of {}", page.len());
        // For programs names are written out, up to what `name_expansion` allows, and no further.
        let json = pulse(&place, &["inspect", "p", "--json"]).done();
        let names = if what.starts_with("names") { 6 << 20 } else { 0 };
        assert!(json.len() < 12 * patch.len() + (1 << 18) + names, "{what}: {}", json.len());
    }
}

#[test]
fn names_too_long_for_their_patch_are_refused_and_the_limit_is_named() {
    let place = Place::new();
    let long = (0..3000).map(|number| "n".repeat(4090) + &format!("{number:06}"));
    fs::write(place.root().join("p"), empty_tensors(long, 1)).unwrap();
    pulse(&place, &["verify", "p"]).failed(&["name_expansion", "--limit name_expansion="]);
    pulse(&place, &["verify", "p", "--limit", "name_expansion=100"]).done();
}

#[test]
fn blocks_left_packed_are_said() {
    let place = Place::new();
    fs::write(place.root().join("p"), all_steps(3)).unwrap();
    let text = pulse(&place, &["inspect", "p"]).done();
    assert!(text.contains("not unpacked") && text.contains("2 blocks"), "{text}");
    assert_eq!(pulse(&place, &["inspect", "p", "--json"]).json()["left_packed"], 2);
    pulse(&place, &["verify", "p"]).failed(&["limit `expansion`", "--limit expansion="]);
    let all = ["inspect", "p", "--json", "--limit", "expansion=1000000"];
    assert_eq!(pulse(&place, &all).json()["left_packed"], 0);
}
