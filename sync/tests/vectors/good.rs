//! What every reader must follow.

use std::collections::BTreeMap;

use crate::documents::{
    add, data, data_name, digest, get, payload, quoted, record_name, remove, sealed, sealed_with,
    set, set_in, text,
};
use crate::feeds::{Objects, BEGUN, KEYS};
use crate::vector::Vector;

const DAY: u64 = 24 * 3_600_000;

/// The data that the record of a version names.
pub fn patch_of(objects: &Objects, version: u64) -> String {
    text(get(&payload(objects, &record_name(version)), "patch"), "object")
}

/// The data of the anchor that the record of a version names.
pub fn anchor_of(objects: &Objects, version: u64) -> String {
    text(get(&payload(objects, &record_name(version)), "anchor"), "object")
}

/// The only object whose name begins so.
pub fn only(objects: &Objects, start: &str) -> String {
    let mut found = objects.keys().filter(|name| name.starts_with(start));
    let name = found.next().unwrap_or_else(|| panic!("no {start}"));
    assert_eq!(found.next(), None);
    name.clone()
}

/// The same bytes but for one.
pub fn swapped(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

/// A record of version 2 of the feed `short`, or another head, with a change of its payload.
fn head(objects: &Objects, version: u64, change: impl FnOnce(&str) -> String) -> (String, Vec<u8>) {
    let name = record_name(version);
    let changed = sealed(&change(&payload(objects, &name)), &[]);
    (name, changed)
}

pub fn vectors(feeds: &BTreeMap<&'static str, Objects>) -> Vec<Vector> {
    [from_records(feeds), by_number_and_mark(feeds), documents(feeds), signed(feeds)]
        .into_iter()
        .chain([untrusted(feeds), by_products(feeds), missing_data(feeds)])
        .flatten()
        .collect()
}

fn from_records(feeds: &BTreeMap<&'static str, Objects>) -> Vec<Vector> {
    let (plain, ended, short) = (&feeds["plain"], &feeds["ended"], &feeds["short"]);
    let newest = [anchor_of(plain, 11), patch_of(plain, 11)];
    vec![
        Vector::good(
            ("newest", "F12 F29 F30"),
            "From nothing to the newest version: the newest anchor, and the patch after it.",
            ("plain", plain),
            11,
        )
        .way(&newest),
        Vector::good(
            ("held", "F29 F30"),
            "The reader holds version 10: one patch.",
            ("plain", plain),
            11,
        )
        .held(10)
        .way(&newest[1..]),
        Vector::good(
            ("held-old", "F30"),
            "The reader holds version 2, from which anchors are nearer than patches.",
            ("plain", plain),
            11,
        )
        .held(2),
        Vector::good(
            ("held-no-version", "F30"),
            "The reader holds weights that are no version of the feed.",
            ("plain", plain),
            11,
        )
        .held(99)
        .way(&newest),
        Vector::good(
            ("held-newest", "F30"),
            "The reader holds the newest version: there is nothing to fetch.",
            ("plain", plain),
            11,
        )
        .held(11)
        .way(&[]),
        Vector::good(
            ("ended", "F12"),
            "The last version of the run, which changes no weights.",
            ("ended", ended),
            2,
        )
        .way(&[anchor_of(ended, 0), patch_of(ended, 1)]),
        Vector::good(
            ("without-latest", "F9"),
            "There is no latest.json: the head is searched for.",
            ("plain", plain),
            11,
        )
        .without("latest.json"),
        Vector::good(
            ("two-versions", "F10"),
            "The second version is the newest, and nobody has said so.",
            ("short", short),
            1,
        )
        .without("latest.json")
        .without(&record_name(2)),
    ]
}

fn by_number_and_mark(feeds: &BTreeMap<&'static str, Objects>) -> Vec<Vector> {
    let plain = &feeds["plain"];
    vec![
        Vector::good(("at-0", "F28"), "Version 0 is asked for.", ("plain", plain), 0).at(0),
        Vector::good(
            ("at-7", "F28"),
            "Version 7, which has the weights of version 6, is asked for.",
            ("plain", plain),
            7,
        )
        .at(7)
        .way(&[anchor_of(plain, 7), patch_of(plain, 6)]),
        Vector::good(
            ("at-older-than-mark", "F28"),
            "A version older than the mark is asked for by number; the mark stays.",
            ("plain", plain),
            3,
        )
        .mark(9, None)
        .at(3),
        Vector::good(
            ("mark", "F13 F27"),
            "The newest version leads back to version 4, which was served before.",
            ("plain", plain),
            11,
        )
        .mark(4, None)
        .held(4),
        Vector::good(
            ("mark-0", "F13 F27"),
            "The newest version leads back to version 0, which was served before.",
            ("plain", plain),
            11,
        )
        .mark(0, None)
        .held(0),
        Vector::good(
            ("mark-newest", "F27"),
            "The newest version was served before, and is made again by a reader that lost it.",
            ("plain", plain),
            11,
        )
        .mark(11, None),
    ]
}

fn documents(feeds: &BTreeMap<&'static str, Objects>) -> Vec<Vector> {
    let short = &feeds["short"];
    let feed = ("short", short);
    let good = |name, rules, shows: &'static str, (object, bytes): (String, Vec<u8>)| {
        Vector::good((name, rules), shows, feed, 2).change(&object, bytes)
    };
    let changed = |change: fn(&str) -> String| head(short, 2, change);
    let seal_of = |change: fn(&str) -> String| {
        let whole = String::from_utf8(short[&record_name(2)].clone()).unwrap();
        let (payload, seal) = whole.trim_end().split_once('\n').unwrap();
        (record_name(2), format!("{payload}\n{}\n", change(seal)).into_bytes())
    };
    let manifest = sealed(&set(&payload(short, "pulse.json"), "minor", "7"), &[]);
    vec![
        good(
            "unknown-fields",
            "F5",
            "A record with fields of a later version, one of them null.",
            changed(|text| {
                add(text, r#""later":null,"more":{"type":[false,"\u00e9\ud83d\ude00"]}"#)
            }),
        ),
        good(
            "unknown-field-of-seal",
            "F5",
            "A seal with a field of a later version.",
            seal_of(|seal| add(seal, r#""later":[1]"#)),
        ),
        good(
            "white-space",
            "F2",
            "A payload with white space around its parts.",
            changed(|text| format!(" {}\t\r", text.replace("\":", "\" : "))),
        ),
        good(
            "escaped-names",
            "F2",
            "A field whose name is written with an escape.",
            changed(|text| text.replace("\"epoch\"", "\"\\u0065poch\"")),
        ),
        good(
            "greatest-number",
            "F2",
            "An optimizer step of 2^53.",
            changed(|text| set(text, "step", "9007199254740992")),
        ),
        good(
            "deepest-nesting",
            "F2",
            "An unknown field with seven levels of arrays: eight with the record.",
            changed(|text| add(text, r#""later":[[[[[[[1]]]]]]]"#)),
        ),
        good(
            "without-step",
            "F5",
            "A record without its optional step.",
            changed(|text| remove(text, "step")),
        ),
        Vector::good(("largest-document", "F3"), "A record of 65,536 bytes.", feed, 2)
            .stretch(&record_name(2), 65_536),
        Vector::good(("later-minor", "F8"), "A feed of a later minor version.", feed, 2)
            .change("pulse.json", manifest),
        good(
            "signature-in-unsigned-feed",
            "F14",
            "A record of an unsigned feed with a signature that does not verify: it means nothing.",
            (
                record_name(2),
                sealed_with(
                    &payload(short, &record_name(2)),
                    &[(KEYS[0].public(), "00".repeat(64))],
                ),
            ),
        ),
        good(
            "new-key-in-unsigned-feed",
            "F14",
            "A record of an unsigned feed with a new key: it means nothing.",
            head(short, 2, |text| {
                let fields = format!(r#""rekeyed":2,"new_key":"{}""#, KEYS[0].public());
                add(text, &fields)
            }),
        ),
    ]
}

fn signed(feeds: &BTreeMap<&'static str, Objects>) -> Vec<Vector> {
    let (signed, rekeyed) = (&feeds["signed"], &feeds["rekeyed"]);
    let record = payload(signed, &record_name(3));
    let strangers = {
        let other = crate::documents::signature("something else", KEYS[1]);
        let own = crate::documents::signature(&record, KEYS[0]);
        sealed_with(&record, &[(KEYS[1].public(), other), (KEYS[0].public(), own)])
    };
    let follows = |name, shows, feed| Vector::good((name, "F14 F15 F16 F17"), shows, feed, 6);
    let feed = ("rekeyed", rekeyed);
    vec![
        Vector::good(
            ("signed", "F14 F15"),
            "The reader has the key of the feed.",
            ("signed", signed),
            3,
        )
        .key(KEYS[0]),
        Vector::good(
            ("signed-without-key", "F15"),
            "The reader has no key, and trusts the store for it.",
            ("signed", signed),
            3,
        ),
        Vector::good(
            ("signature-of-a-stranger", "F14"),
            "A record with a bad signature of another key beside the good one.",
            ("signed", signed),
            3,
        )
        .key(KEYS[0])
        .change(&record_name(3), strangers),
        follows("rekeyed", "The reader has the first key, which two others followed.", feed)
            .key(KEYS[0]),
        follows("rekeyed-second-key", "The reader has the second of three keys.", feed)
            .key(KEYS[1]),
        follows("rekeyed-third-key", "The reader has the third of three keys.", feed).key(KEYS[2]),
        follows(
            "rekeyed-mark",
            "The reader has the first key, and a mark from the time of the second.",
            feed,
        )
        .key(KEYS[0])
        .mark(3, Some(KEYS[1])),
        follows("rekeyed-mark-alone", "The reader has the key of its mark alone.", feed)
            .mark(1, Some(KEYS[0])),
        Vector::good(
            ("rekeyed-between", "F16"),
            "The record that changes the key is signed by both: asked for by number.",
            feed,
            4,
        )
        .key(KEYS[0])
        .at(4),
        Vector::good(
            ("latest-of-new-key", "F14"),
            "latest.json names the version that changes the key, and is signed by the new one.",
            feed,
            4,
        )
        .key(KEYS[0])
        .without(&record_name(5))
        .without(&record_name(6))
        .change("latest.json", sealed(&latest(rekeyed, 4, 0), &[KEYS[2]]))
        .now(BEGUN + 10 * DAY)
        .says("expired"),
    ]
}

/// The payload of `latest.json` for a version, some time after the beginning.
fn latest(objects: &Objects, version: u64, after: u64) -> String {
    let text = set(&payload(objects, "latest.json"), "version", &version.to_string());
    let text = set(&text, "record", &quoted(&digest(objects, version)));
    let text = set(&text, "time", &(BEGUN + after).to_string());
    set(&text, "expires", &(BEGUN + after + DAY).to_string())
}

fn untrusted(feeds: &BTreeMap<&'static str, Objects>) -> Vec<Vector> {
    let (plain, signed) = (&feeds["plain"], &feeds["signed"]);
    let good = |name, shows: &'static str, text: &str| {
        Vector::good((name, "F9"), shows, ("plain", plain), 11)
            .change("latest.json", sealed(text, &[]))
    };
    let now = latest(plain, 11, 0);
    vec![
        good("latest-older", "latest.json names an older version.", &latest(plain, 6, 0)),
        good(
            "latest-far",
            "latest.json names a version that is not there.",
            &set(&now, "version", "9007199254740992"),
        ),
        good(
            "latest-other-record",
            "latest.json has the digest of another record.",
            &set(&now, "record", &quoted(&digest(plain, 10))),
        ),
        good(
            "latest-other-run",
            "latest.json is of another run.",
            &set(&now, "run", &quoted(&"0".repeat(32))),
        ),
        good("latest-no-version", "latest.json has no version.", &remove(&now, "version")),
        Vector::good(("latest-empty", "F9"), "latest.json is empty.", ("plain", plain), 11)
            .change("latest.json", Vec::new()),
        Vector::good(("latest-large", "F3 F9"), "latest.json is too large.", ("plain", plain), 11)
            .stretch("latest.json", 65_537),
        Vector::good(
            ("latest-unsigned", "F9 F14"),
            "latest.json of a signed feed is not signed, and has expired: nothing is said of it.",
            ("signed", signed),
            3,
        )
        .key(KEYS[0])
        .change("latest.json", sealed(&latest(signed, 3, 0), &[]))
        .now(BEGUN + 10 * DAY),
        Vector::good(
            ("latest-expired", "F34"),
            "latest.json has expired: that is said, and the version is served.",
            ("plain", plain),
            11,
        )
        .now(BEGUN + 10 * DAY)
        .says("expired"),
        Vector::good(
            ("latest-future", "F34"),
            "latest.json was written six minutes in the future.",
            ("plain", plain),
            11,
        )
        .change("latest.json", sealed(&latest(plain, 11, 360_001), &[]))
        .now(BEGUN)
        .says("future"),
        Vector::good(
            ("latest-skewed", "F34"),
            "latest.json was written five minutes in the future, as clocks differ.",
            ("plain", plain),
            11,
        )
        .change("latest.json", sealed(&latest(plain, 11, 300_000), &[]))
        .now(BEGUN),
    ]
}

/// Versions 4 to 8, between which there is a skip.
fn by_products(feeds: &BTreeMap<&'static str, Objects>) -> Vec<Vector> {
    let plain = &feeds["plain"];
    let good = |name, rules, shows: &'static str| {
        Vector::good((name, rules), shows, ("plain", plain), 8).held(4).at(8)
    };
    let name = only(plain, "skip/");
    let skip = payload(plain, &name);
    let object = text(get(&skip, "data"), "object");
    let patches = [5, 6, 8].map(|version| patch_of(plain, version));
    let without_skip = |name, rules, shows| good(name, rules, shows).way(&patches);
    let hints = payload(plain, "hints.json");
    let with_hints = |name, rules, shows, text: &str| {
        without_skip(name, rules, shows).change("hints.json", sealed(text, &[]))
    };
    let with_skip = |vector: Vector, text: &str| vector.change(&name, sealed(text, &[]));
    let cheap = |data: &str| set(&set(&skip, "data", data), "bytes", "1");
    // A patch of versions that are not those of the skip.
    let other = &plain[&patch_of(plain, 8)];
    let misnamed = set(&skip, "data", &data(&data_name(8), other));
    let recorded = set(get(&skip, "data"), "object", &quoted(&patch_of(plain, 8)));
    vec![
        good("skip", "F29 F30", "One skip is cheaper than three patches.")
            .way(std::slice::from_ref(&object)),
        without_skip("hints-absent", "F9", "There is no hints.json: patches lead there, too.")
            .without("hints.json"),
        with_hints(
            "hints-hostile-name",
            "F7 F9",
            "hints.json names what is no by-product: a path that leads out of the feed.",
            &set(&hints, "skips", &format!(r#"[{},"skip/../../../etc/passwd"]"#, quoted(&name))),
        ),
        with_hints(
            "hints-backward-name",
            "F7 F9",
            "hints.json names a skip that leads backward.",
            &set(
                &hints,
                "skips",
                &format!(r#"[{},"skip/{:020}-{:020}-{:016x}.json"]"#, quoted(&name), 8, 4, 1),
            ),
        ),
        with_hints(
            "hints-other-run",
            "F7 F9",
            "hints.json is of another run.",
            &set(&hints, "run", &quoted(&"0".repeat(32))),
        ),
        without_skip("hints-large", "F3 F9", "hints.json has 1,048,577 bytes.")
            .stretch("hints.json", 1_048_577),
        good("hints-largest", "F3", "hints.json has 1,048,576 bytes.")
            .stretch("hints.json", 1_048_576)
            .way(std::slice::from_ref(&object)),
        good("floor-wrong", "F9 F32", "floor.json says that all data is gone; it is there.")
            .change(
                "floor.json",
                sealed(
                    &format!(
                        r#"{{"type":"floor","run":{},"version":11,"time":{BEGUN}}}"#,
                        get(&hints, "run")
                    ),
                    &[],
                ),
            )
            .way(std::slice::from_ref(&object)),
        without_skip("skip-absent", "F9", "hints.json names a skip that is not there.")
            .without(&name),
        with_skip(
            without_skip("skip-other-name", "F7 F9", "A skip from 3 has the name of one from 4."),
            &set(&skip, "from", "3"),
        ),
        with_skip(
            without_skip("skip-other-base", "F9 F29", "A skip says another base than the records."),
            &set(&skip, "base", &quoted(&"1".repeat(64))),
        ),
        with_skip(
            without_skip("skip-other-target", "F9 F29", "A skip says another target."),
            &set(&skip, "target", &quoted(&"1".repeat(64))),
        ),
        with_skip(
            without_skip(
                "skip-data-other-name",
                "F7 F9",
                "The data of a skip, whole, has a name of version 7.",
            ),
            &set(&skip, "data", &data(&data_name(7), &plain[&object])),
        )
        .change(&data_name(7), plain[&object].clone()),
        without_skip("skip-data-absent", "F32", "The data of a skip was pruned.").without(&object),
        without_skip("skip-data-swapped", "F29 F31", "The data of a skip has another byte.")
            .change(&object, swapped(&plain[&object])),
        without_skip("skip-data-cut", "F29 F31", "The data of a skip was cut off.")
            .change(&object, plain[&object][..100].to_vec()),
        with_skip(
            without_skip("skip-of-others", "F29 F31", "The data of a skip leads from version 7."),
            &misnamed,
        )
        .change(&data_name(8), other.clone()),
        with_skip(
            without_skip(
                "skip-names-recorded-data",
                "F31",
                "A skip has the data of a recorded patch, which stays of use after it failed.",
            ),
            &cheap(&recorded),
        ),
    ]
}

fn missing_data(feeds: &BTreeMap<&'static str, Objects>) -> Vec<Vector> {
    let (plain, short) = (&feeds["plain"], &feeds["short"]);
    let newest = anchor_of(plain, 11);
    let patch = patch_of(short, 2);
    let patches: Vec<String> = (1..=2).map(|version| patch_of(short, version)).collect();
    let older = Vector::good(
        ("patch-absent", "F32"),
        "The patch of the newest version was pruned: the one before it is served.",
        ("short", short),
        1,
    );
    let by_number = payload(plain, &record_name(11));
    let bad_anchor = set_in(&by_number, "anchor", "target", &quoted(&"1".repeat(64)));
    vec![
        Vector::good(
            ("anchor-absent", "F32"),
            "The newest anchor was pruned: an older one and patches lead there.",
            ("plain", plain),
            11,
        )
        .without(&newest),
        Vector::good(
            ("anchor-swapped", "F29 F31"),
            "The newest anchor has another byte: an older one and patches lead there.",
            ("plain", plain),
            11,
        )
        .change(&newest, swapped(&plain[&newest])),
        Vector::good(
            ("anchor-of-nothing", "F29"),
            "A record names an anchor with another target than the record of its version has.",
            ("plain", plain),
            11,
        )
        .change(&record_name(11), sealed(&bad_anchor, &[])),
        older.without(&patch).way(&[anchor_of(short, 0), patches[0].clone()]),
        Vector::good(
            ("patch-swapped", "F29 F31 F32"),
            "The patch of the newest version has another byte: the one before it is served.",
            ("short", short),
            1,
        )
        .change(&patch, swapped(&short[&patch])),
        Vector::good(
            ("patch-absent-mark", "F28 F32"),
            "The same, and the reader has lost the version that it served before.",
            ("short", short),
            1,
        )
        .mark(1, None)
        .without(&patch),
    ]
}
