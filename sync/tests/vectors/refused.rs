//! What every reader must refuse.

use std::collections::BTreeMap;

use testkit::forge;

use crate::documents::{
    add, data, data_name, digest, get, payload, quoted, record_name, remove, sealed, sealed_with,
    set, set_in, sha256, signature, text,
};
use crate::feeds::{Key, Objects, KEYS};
use crate::good::{anchor_of, patch_of, swapped};
use crate::vector::Vector;

type Feeds = BTreeMap<&'static str, Objects>;

pub fn vectors(feeds: &Feeds) -> Vec<Vector> {
    [lines(feeds), json(feeds), forms(feeds), names(feeds), manifests(feeds)]
        .into_iter()
        .chain([records(feeds), chains(feeds), back(feeds), signatures(feeds), keys(feeds)])
        .chain([marks(feeds), contents(feeds), lost(feeds)])
        .flatten()
        .collect()
}

/// The newest record of the feed `short`, with other bytes.
fn of_bytes(
    feeds: &Feeds,
    kinds: &'static str,
    (name, rules): (&'static str, &'static str),
    shows: &'static str,
    bytes: impl AsRef<[u8]>,
) -> Vector {
    Vector::refused((name, rules), shows, ("short", &feeds["short"]), kinds)
        .change(&record_name(2), bytes.as_ref().to_vec())
}

/// The newest record of the feed `short`, with another payload that is sealed.
fn of_payload(
    feeds: &Feeds,
    kinds: &'static str,
    id: (&'static str, &'static str),
    shows: &'static str,
    change: impl FnOnce(&str) -> String,
) -> Vector {
    let changed = change(&payload(&feeds["short"], &record_name(2)));
    of_bytes(feeds, kinds, id, shows, sealed(&changed, &[]))
}

fn lines(feeds: &Feeds) -> Vec<Vector> {
    let short = &feeds["short"];
    let whole = short[&record_name(2)].clone();
    let text = String::from_utf8(whole.clone()).unwrap();
    let (first, second) = text.trim_end().split_once('\n').unwrap();
    let bad = |name, rules, shows, bytes: &[u8]| {
        of_bytes(feeds, "malformed", (name, rules), shows, bytes)
    };
    let seal =
        |name, shows, seal: &str| bad(name, "F2", shows, format!("{first}\n{seal}\n").as_bytes());
    let other = text.replace(&sha256(first.as_bytes()), &digest(short, 1));
    let bit = [&swapped(first.as_bytes()), "\n".as_bytes(), second.as_bytes(), b"\n"].concat();
    vec![
        bad("empty", "F1", "A record without a byte.", b""),
        bad("cut-in-payload", "F1", "A record that is cut off in its payload.", &whole[..100]),
        bad("cut-before-seal", "F1", "A record that is its payload.", first.as_bytes()),
        bad(
            "cut-after-payload",
            "F1",
            "A record that is its payload and the line feed.",
            format!("{first}\n").as_bytes(),
        ),
        bad(
            "cut-of-line-feed",
            "F1",
            "A record without its last line feed.",
            &whole[..whole.len() - 1],
        ),
        bad("third-line", "F1", "A record and an empty line.", format!("{text}\n").as_bytes()),
        bad("after-seal", "F1", "A record and a space.", format!("{text} ").as_bytes()),
        bad("empty-payload", "F1", "A first line without a byte.", format!("\n{text}").as_bytes()),
        seal("seal-no-object", "A seal that is an array.", "[]"),
        seal("seal-no-sha256", "A seal without sha256.", r#"{"signatures":[]}"#),
        seal(
            "seal-no-signatures",
            "A seal without signatures.",
            &format!(r#"{{"sha256":"{}"}}"#, sha256(first.as_bytes())),
        ),
        seal("seal-null", "Signatures that are null.", &set(second, "signatures", "null")),
        seal(
            "seal-twice",
            "A seal with a key twice.",
            &add(second, &format!(r#""sha256":{}"#, get(second, "sha256"))),
        ),
        seal(
            "seal-short-signature",
            "A signature of 126 digits, in a feed that is not signed.",
            &set(
                second,
                "signatures",
                &format!(r#"[{{"key":"{}","signature":"{}"}}]"#, KEYS[0].public(), "0".repeat(126)),
            ),
        ),
        of_bytes(
            feeds,
            "seal malformed",
            ("bit-of-payload", "F4"),
            "A payload with another bit.",
            bit,
        ),
        of_bytes(
            feeds,
            "seal",
            ("seal-of-another", "F4"),
            "A seal with the SHA-256 of another payload.",
            other,
        ),
        Vector::refused(
            ("too-large", "F3"),
            "A record of 65,537 bytes.",
            ("short", short),
            "limit",
        )
        .stretch(&record_name(2), 65_537),
        Vector::refused(("much-too-large", "F3"), "A record of 16 MiB.", ("short", short), "limit")
            .stretch(&record_name(2), 16 << 20),
    ]
}

fn json(feeds: &Feeds) -> Vec<Vector> {
    let bad = |name, shows, change: &dyn Fn(&str) -> String| {
        of_payload(feeds, "malformed", (name, "F2"), shows, change)
    };
    let step =
        |name, shows, value: &'static str| bad(name, shows, &|text| set(text, "step", value));
    let more = |name, shows, value: &'static str| {
        bad(name, shows, &|text| add(text, &format!("\"later\":{value}")))
    };
    let latin = {
        let text = payload(&feeds["short"], &record_name(2));
        let text = add(&text, r#""later":"?""#).replace('?', "\u{e9}");
        // One byte of the two.
        let mut bytes = text.into_bytes();
        let at = bytes.iter().position(|byte| *byte == 0xc3).unwrap();
        bytes.remove(at);
        let seal = format!(r#"{{"sha256":"{}","signatures":[]}}"#, sha256(&bytes));
        [&bytes, &b"\n"[..], seal.as_bytes(), b"\n"].concat()
    };
    vec![
        bad("no-object", "A payload that is an array with a record.", &|text| format!("[{text}]")),
        bad("no-json", "A payload that ends with a comma.", &|text| {
            format!("{},}}", &text[..text.len() - 1])
        }),
        bad("two-objects", "A payload with two objects.", &|text| format!("{text}{{}}")),
        bad("byte-order-mark", "A payload that begins with a byte order mark.", &|text| {
            format!("\u{feff}{text}")
        }),
        of_bytes(feeds, "malformed", ("no-utf8", "F2"), "A text that is not UTF-8.", latin),
        bad("key-twice", "A field twice, with the same value.", &|text| add(text, "\"epoch\":1")),
        bad("key-twice-escaped", "A field twice, once with an escape.", &|text| {
            add(text, "\"\\u0065poch\":1")
        }),
        more(
            "key-twice-inside",
            "A key twice in an object of a later version.",
            r#"{"a":1,"a":1}"#,
        ),
        step("number-negative", "A step of -1.", "-1"),
        step("number-minus-zero", "A step of -0.", "-0"),
        step("number-fraction", "A step of 1.0.", "1.0"),
        step("number-exponent", "A step of 1e1.", "1e1"),
        step("number-zero-first", "A step of 01.", "01"),
        step("number-plus", "A step of +1.", "+1"),
        step("number-great", "A step of 2^53 + 1.", "9007199254740993"),
        step("number-greater", "A step of 2^64.", "18446744073709551616"),
        more("number-unknown", "A fraction in a field of a later version.", "[0.5]"),
        more("number-infinite", "A word that JSON does not know.", "Infinity"),
        more("nested", "Arrays eight deep in the record.", "[[[[[[[[1]]]]]]]]"),
        more("surrogate", "Half of a surrogate pair.", r#""\ud800""#),
        more("control", "A tab in a text.", "\"\t\""),
        bad("nested-deep", "Arrays a thousand deep.", &|text| {
            let deep = ["[".repeat(1_000), "]".repeat(1_000)].concat();
            add(text, &format!("\"later\":{deep}"))
        }),
    ]
}

fn forms(feeds: &Feeds) -> Vec<Vector> {
    let bad = |name, shows, change: &dyn Fn(&str) -> String| {
        of_payload(feeds, "malformed", (name, "F2"), shows, change)
    };
    let missing = |name, shows, field: &'static str| bad(name, shows, &|text| remove(text, field));
    let value = |name, shows, field: &'static str, value: &'static str| {
        bad(name, shows, &|text| set(text, field, value))
    };
    vec![
        missing("no-version", "A record without version.", "version"),
        missing("no-target", "A record without target.", "target"),
        missing("no-writer", "A record without writer.", "writer"),
        missing("no-time", "A record without time.", "time"),
        missing("no-type", "A record without type.", "type"),
        missing("no-run", "A record without run.", "run"),
        bad("no-anchor", "A record without anchor.", &|text| {
            text.replacen("\"anchor\":", "\"later\":", 1)
        }),
        bad("no-sha256", "Data without sha256.", &|text| {
            set(text, "patch", &remove(get(text, "patch"), "sha256"))
        }),
        value("version-text", "A version that is a text.", "version", "\"2\""),
        value("epoch-0", "An epoch of 0.", "epoch", "0"),
        value("step-null", "A step that is null.", "step", "null"),
        value("patch-null", "A patch that is null.", "patch", "null"),
        value("patch-text", "A patch that is a text.", "patch", "\"data\""),
        value("time-array", "A time that is an array.", "time", "[1]"),
        bad("target-upper-case", "A digest in upper case.", &|text| {
            set(text, "target", &format!("\"{}\"", "AB".repeat(32)))
        }),
        bad("target-short", "A digest of 62 digits.", &|text| {
            set(text, "target", &format!("\"{}\"", "ab".repeat(31)))
        }),
        bad("writer-long", "A writer of 34 digits.", &|text| {
            set(text, "writer", &format!("\"{}\"", "ab".repeat(17)))
        }),
        bad("ended-false", "A record that has not ended, and says so.", &|text| {
            add(text, "\"ended\":false")
        }),
    ]
}

fn names(feeds: &Feeds) -> Vec<Vector> {
    let short = &feeds["short"];
    let object = |name, shows, object: &'static str| {
        of_payload(feeds, "malformed", (name, "F7"), shows, |text| {
            set_in(text, "patch", "object", &quoted(object))
        })
    };
    let payloads = |name, shows, kinds, change: &dyn Fn(&str) -> String| {
        of_payload(feeds, kinds, (name, "F7"), shows, change)
    };
    vec![
        payloads("other-type", "A record of type anchor.", "malformed", &|text| {
            set(text, "type", "\"anchor\"")
        }),
        payloads("other-run", "A record of another run.", "run", &|text| {
            set(text, "run", &quoted(&"0".repeat(32)))
        }),
        of_bytes(
            feeds,
            "run",
            ("record-of-other-feed", "F7"),
            "A record that was taken from another feed.",
            &feeds["other"][&record_name(2)],
        ),
        of_bytes(
            feeds,
            "malformed",
            ("replayed", "F7"),
            "The record of version 1 has the name of the next.",
            &short[&record_name(1)],
        ),
        object("object-path", "Data outside of the feed.", "../../../etc/passwd"),
        object("object-absolute", "Data with an absolute name.", "/etc/passwd"),
        object(
            "object-dots",
            "Data named by dots.",
            "data/../data/00000000000000000002-00000000deadbeef",
        ),
        object("object-record", "Data that is a record.", "log/00000000000000000002.json"),
        object(
            "object-skip",
            "Data in the folder of anchors.",
            "anchor/00000000000000000002-00000000deadbeef",
        ),
        object(
            "object-short",
            "A version of 19 digits.",
            "data/0000000000000000002-00000000deadbeef",
        ),
        object(
            "object-upper-case",
            "A nonce in upper case.",
            "data/00000000000000000002-00000000DEADBEEF",
        ),
        object(
            "object-other-digits",
            "A version in digits of another script.",
            "data/0000000000000000000٢-00000000deadbeef",
        ),
        object(
            "object-line-feed",
            "A name and a line feed.",
            "data/00000000000000000002-00000000deadbeef\\n",
        ),
        object("object-url", "Data at another address.", "https://localhost/data"),
        object(
            "object-other-version",
            "The patch has the name of data of version 1.",
            "data/00000000000000000001-00000000deadbeef",
        ),
        of_payload(
            feeds,
            "malformed",
            ("anchor-other-name", "F7"),
            "The anchor of version 0 has the name of data of version 1.",
            |text| {
                let name = quoted(&data_name(1));
                set(text, "anchor", &set(get(text, "anchor"), "object", &name))
            },
        ),
    ]
}

fn manifests(feeds: &Feeds) -> Vec<Vector> {
    let short = &feeds["short"];
    let manifest = payload(short, "pulse.json");
    let bad = |name, rules, shows, kinds, text: &str| {
        Vector::refused((name, rules), shows, ("short", short), kinds)
            .change("pulse.json", sealed(text, &[]))
    };
    vec![
        bad(
            "major-2",
            "F8",
            "A feed of major version 2.",
            "version",
            &set(&manifest, "major", "2"),
        ),
        bad(
            "major-2-unlike",
            "F8",
            "A feed of major version 2, without what version 1 has.",
            "version",
            &format!(r#"{{"type":"feed","run":{},"major":2}}"#, get(&manifest, "run")),
        ),
        bad(
            "major-0",
            "F8",
            "A feed of major version 0.",
            "version",
            &set(&manifest, "major", "0"),
        ),
        bad(
            "manifest-type",
            "F7",
            "pulse.json has another type.",
            "malformed",
            &set(&manifest, "type", "\"floor\""),
        ),
        bad(
            "manifest-run",
            "F2",
            "pulse.json has a run of 30 digits.",
            "malformed",
            &set(&manifest, "run", &quoted(&"0".repeat(30))),
        ),
        bad(
            "manifest-other-run",
            "F7",
            "pulse.json is of another run than the records.",
            "run",
            &set(&manifest, "run", &quoted(&"0".repeat(32))),
        ),
        Vector::refused(
            ("manifest-cut", "F1"),
            "pulse.json is cut off.",
            ("short", short),
            "malformed",
        )
        .change("pulse.json", short["pulse.json"][..50].to_vec()),
        of_payload(
            feeds,
            "version",
            ("format-2", "F8"),
            "A record with a patch of format 2.",
            |text| set_in(text, "patch", "format", "2"),
        ),
        of_payload(
            feeds,
            "version",
            ("anchor-format-2", "F8"),
            "A record with an anchor of format 2.",
            |text| set(text, "anchor", &set(get(text, "anchor"), "format", "2")),
        ),
    ]
}

fn records(feeds: &Feeds) -> Vec<Vector> {
    let short = &feeds["short"];
    // A feed with its first record alone.
    let first = |name, shows, change: &dyn Fn(&str) -> String| {
        let text = change(&payload(short, &record_name(0)));
        Vector::refused((name, "F10"), shows, ("short", short), "malformed")
            .without(&record_name(1))
            .without(&record_name(2))
            .change(&record_name(0), sealed(&text, &[]))
    };
    let bad = |name, rules, shows, change: &dyn Fn(&str) -> String| {
        of_payload(feeds, "malformed", (name, rules), shows, change)
    };
    let zeros = "0".repeat(64);
    let link = |field: &str| format!(r#""{field}":"{zeros}""#);
    let patch = payload(short, &record_name(2));
    let odd = set(&payload(short, &record_name(1)), "back", &quoted(&zeros));
    let own = |text: &str, target: &str| {
        let data = data(&data_name(2), b"nothing");
        let anchor = format!(r#"{{"version":2,"target":{target},"data":{data}}}"#);
        set(text, "anchor", &anchor)
    };
    vec![
        first("first-with-links", "Version 0 follows another.", &|text| {
            add(text, &[link("previous"), link("back"), link("base")].join(","))
        }),
        first("first-with-base", "Version 0 has a base.", &|text| add(text, &link("base"))),
        first("first-with-patch", "Version 0 has a patch.", &|text| {
            add(text, &format!(r#""patch":{}"#, data(&data_name(0), b"nothing")))
        }),
        bad("without-base", "F10", "Version 2 has no base.", &|text| remove(text, "base")),
        bad("without-previous", "F10", "Version 2 has no previous.", &|text| {
            remove(text, "previous")
        }),
        bad("without-links", "F10", "Version 2 follows nothing.", &|text| {
            remove(&remove(&remove(text, "base"), "back"), "previous")
        }),
        bad("anchor-later", "F11", "The anchor is of a later version.", &|text| {
            let own = own(text, get(text, "target"));
            let anchor = set(get(&own, "anchor"), "version", "3");
            let anchor = set(&anchor, "object", &quoted(&data_name(3)));
            set(&own, "anchor", &anchor)
        }),
        bad(
            "anchor-other-target",
            "F11",
            "The anchor of this version has another target.",
            &|text| own(text, &quoted(&zeros)),
        ),
        bad("no-data", "F11", "Nothing leads to the version.", &|text| remove(text, "patch")),
        bad("patch-of-nothing", "F11", "A version that changes nothing has a patch.", &|text| {
            set(text, "target", get(text, "base"))
        }),
        bad("rekeyed-later", "F11", "The key was changed by a later version.", &|text| {
            add(text, "\"rekeyed\":3")
        }),
        bad("rekeyed-without-key", "F11", "The key is changed, to none.", &|text| {
            add(text, "\"rekeyed\":2")
        }),
        bad("new-key-not-rekeyed", "F11", "A new key, which rekeyed does not tell of.", &|text| {
            add(text, &format!(r#""new_key":"{}""#, KEYS[0].public()))
        }),
        Vector::refused(
            ("odd-back", "F11"),
            "Version 1 has another back than previous.",
            ("short", short),
            "malformed",
        )
        .without(&record_name(2))
        .change(&record_name(1), sealed(&odd, &[])),
        bad("own-previous", "F10", "A record that has its own payload inside.", &|text| {
            set(text, "previous", &patch)
        }),
    ]
}

fn chains(feeds: &Feeds) -> Vec<Vector> {
    let (plain, ended) = (&feeds["plain"], &feeds["ended"]);
    let zeros = quoted(&"0".repeat(64));
    let bad = |name, shows, kinds, change: &dyn Fn(&str) -> String| {
        let text = change(&payload(plain, &record_name(11)));
        Vector::refused((name, "F12"), shows, ("plain", plain), kinds)
            .held(10)
            .mark(10, None)
            .change(&record_name(11), sealed(&text, &[]))
    };
    let older = payload(plain, &record_name(10));
    let after_end = {
        let last = payload(ended, &record_name(2));
        let text = remove(&last, "base").replacen("\"ended\":true", "\"later\":true", 1);
        let base = format!(r#""base":{}"#, get(&last, "target"));
        let link = quoted(&digest(ended, 2));
        set(&set(&add(&set(&text, "version", "3"), &base), "previous", &link), "back", &link)
    };
    vec![
        bad("other-previous", "The newest record follows another one.", "chain forked", &|text| {
            set(&set(text, "previous", &zeros), "back", &zeros)
        }),
        bad("other-base", "The newest record has another base.", "chain", &|text| {
            set(text, "base", &zeros)
        }),
        bad("lower-epoch", "The newest record is of a writer that was fenced.", "epoch", &|text| {
            set(text, "epoch", "1")
        }),
        bad("older-anchor", "The newest record has an older anchor.", "chain", &|text| {
            let anchor = get(&payload(plain, &record_name(6)), "anchor").to_string();
            let anchor = set(&anchor, "version", "4");
            set(text, "anchor", &set(&anchor, "object", &quoted(&data_name(4))))
        }),
        bad(
            "other-anchor",
            "The newest record has other data of the same anchor.",
            "chain",
            &|text| set(text, "anchor", &set(get(&older, "anchor"), "bytes", "1")),
        ),
        bad(
            "rekeyed-before",
            "The newest record tells of a key that was not changed.",
            "chain",
            &|text| add(text, "\"rekeyed\":3"),
        ),
        Vector::refused(
            ("after-the-end", "F12"),
            "A record follows the last one.",
            ("ended", ended),
            "ended",
        )
        .change(&record_name(3), sealed(&after_end, &[])),
    ]
}

/// The records after a version link to the changed ones before them.
fn relinked(objects: &Objects, from: u64, to: u64, sign: &dyn Fn(&str, u64) -> Vec<u8>) -> Objects {
    let (mut all, mut changed) = (objects.clone(), Objects::new());
    for version in from..=to {
        let name = record_name(version);
        let text = payload(&all, &name);
        let back = version & (version - 1);
        let text = set(&text, "previous", &quoted(&digest(&all, version - 1)));
        let text = set(&text, "back", &quoted(&digest(&all, back)));
        let bytes = sign(&text, version);
        all.insert(name.clone(), bytes.clone());
        changed.insert(name, bytes);
    }
    changed
}

/// What `back` leads over: with a mark at version 4, a reader goes from 11 by 10 and 8.
fn back(feeds: &Feeds) -> Vec<Vector> {
    let plain = &feeds["plain"];
    let bad = |name, shows, kinds| {
        Vector::refused((name, "F13"), shows, ("plain", plain), kinds).mark(4, None).held(4)
    };
    let eight = payload(plain, &record_name(8));
    let later = sealed(&set(&eight, "time", "1"), &[]);
    let mut raised = plain.clone();
    let four = sealed(&set(&payload(plain, &record_name(4)), "epoch", "7"), &[]);
    raised.insert(record_name(4), four.clone());
    // Only what leads to it by `back` is made to fit.
    let eight = set(&eight, "back", &quoted(&digest(&raised, 4)));
    raised.insert(record_name(8), sealed(&eight, &[]));
    let mut changes =
        Objects::from([(record_name(4), four), (record_name(8), raised[&record_name(8)].clone())]);
    changes.extend(relinked(&raised, 9, 11, &|text, _| sealed(text, &[])));
    let fenced = Vector::refused(
        ("back-epoch", "F13"),
        "Version 4 is of a later epoch than version 8, which leads to it.",
        ("plain", plain),
        "epoch chain",
    )
    .change_all(changes)
    .at(4);
    vec![
        bad("back-other", "Version 8 is another one than version 10 leads to.", "chain")
            .change(&record_name(8), later),
        bad("back-absent", "Version 8, to which version 10 leads, is absent.", "lost")
            .without(&record_name(8)),
        bad("back-cut", "Version 8, to which version 10 leads, is cut off.", "malformed")
            .change(&record_name(8), plain[&record_name(8)][..200].to_vec()),
        fenced,
    ]
}

fn signatures(feeds: &Feeds) -> Vec<Vector> {
    let signed = &feeds["signed"];
    let manifest = payload(signed, "pulse.json");
    let record = payload(signed, &record_name(3));
    let [a, b, _] = KEYS;
    let of_record = |name, shows, kinds, bytes: Vec<u8>| {
        Vector::refused((name, "F14"), shows, ("signed", signed), kinds)
            .key(a)
            .change(&record_name(3), bytes)
    };
    let with = |key: Key, text: &str| sealed_with(&record, &[(key.public(), text.into())]);
    let of_manifest = |name, shows, kinds, bytes: Vec<u8>| {
        Vector::refused((name, "F14"), shows, ("signed", signed), kinds).change("pulse.json", bytes)
    };
    let own = signature(&record, a);
    // 1, the neutral element: with it as key and as R, and S = 0, the equation holds for every message.
    let neutral = format!("01{}", "0".repeat(62));
    let anybody = |text: &str| {
        sealed_with(text, &[(neutral.clone(), format!("{neutral}{}", "0".repeat(64)))])
    };
    let weak = set(&manifest, "key", &quoted(&neutral));
    let no_point = format!("02{}", "0".repeat(62));
    let no_key = set(&manifest, "key", &quoted(&no_point));
    let context =
        hex::encode(ed25519_dalek::Signer::sign(&a.signing(), record.as_bytes()).to_bytes());
    vec![
        of_record(
            "record-unsigned",
            "The newest record is not signed.",
            "unsigned",
            sealed(&record, &[]),
        ),
        of_record(
            "record-of-other-key",
            "The newest record is signed by another key.",
            "signature",
            sealed(&record, &[b]),
        ),
        of_record(
            "signature-bit",
            "The signature has another bit.",
            "signature",
            with(a, &flipped(&own)),
        ),
        of_record(
            "signature-of-another",
            "The signature is that of another record.",
            "signature",
            with(a, &signature(&payload(signed, &record_name(2)), a)),
        ),
        of_record(
            "signature-of-other-key",
            "The signature of another key, under the name of the right one.",
            "signature",
            with(a, &signature(&record, b)),
        ),
        of_record(
            "signature-without-context",
            "The signature is of the payload alone.",
            "signature",
            with(a, &context),
        ),
        of_record(
            "signature-scalar",
            "The scalar of the signature is greater by the order of the group.",
            "signature",
            with(a, &plus_order(&own)),
        ),
        of_manifest(
            "manifest-unsigned",
            "pulse.json has a key, and is not signed.",
            "unsigned",
            sealed(&manifest, &[]),
        ),
        of_manifest(
            "manifest-of-other-key",
            "pulse.json is signed by another key.",
            "signature",
            sealed(&manifest, &[b]),
        ),
        of_manifest(
            "weak-key",
            "The key is of small order: every message has this signature.",
            "signature",
            anybody(&weak),
        ),
        of_manifest(
            "no-key",
            "The key is no point of the curve.",
            "signature",
            sealed_with(&no_key, &[(no_point.clone(), own.clone())]),
        ),
    ]
}

/// Digits of a signature with a bit of its scalar changed.
fn flipped(signature: &str) -> String {
    let mut bytes = hex::decode(signature).unwrap();
    bytes[40] ^= 1;
    hex::encode(bytes)
}

/// The same signature with L added to its scalar.
fn plus_order(signature: &str) -> String {
    const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
    let (mut bytes, order) = (hex::decode(signature).unwrap(), hex::decode(ORDER).unwrap());
    let mut carry = 0;
    for (byte, more) in bytes[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(more) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(carry, 0);
    hex::encode(bytes)
}

fn keys(feeds: &Feeds) -> Vec<Vector> {
    let (short, signed, rekeyed) = (&feeds["short"], &feeds["signed"], &feeds["rekeyed"]);
    let [a, b, c] = KEYS;
    let last = payload(rekeyed, &record_name(6));
    let of_last = |name, rules, shows, kinds, keys: &[Key]| {
        Vector::refused((name, rules), shows, ("rekeyed", rekeyed), kinds)
            .key(a)
            .change(&record_name(6), sealed(&last, keys))
    };
    let change = |name, shows, kinds, keys: &[Key]| {
        let text = payload(rekeyed, &record_name(4));
        Vector::refused((name, "F16"), shows, ("rekeyed", rekeyed), kinds)
            .key(a)
            .change(&record_name(4), sealed(&text, keys))
    };
    let unsigned = {
        let text = payload(signed, "pulse.json");
        let key = format!(r#","key":{}"#, get(&text, "key"));
        text.replace(&key, "")
    };
    // Whoever found the first key, which has not been in force for long, goes on after what was served.
    let stolen = {
        let text = set(&payload(rekeyed, &record_name(6)), "version", "7");
        let text = set(&text, "base", get(&last, "target"));
        let link = quoted(&digest(rekeyed, 6));
        let text = set(&set(&text, "previous", &link), "back", &link);
        let text = set(&text, "target", &quoted(&"5".repeat(64)));
        let text = remove(&text, "patch");
        let anchor = format!(
            r#"{{"version":7,"target":"{}","data":{}}}"#,
            "5".repeat(64),
            data(&data_name(7), b"weights of somebody else")
        );
        let text = set(&text, "anchor", &anchor);
        let rekeyed = format!(r#","rekeyed":{}"#, get(&text, "rekeyed"));
        sealed(&text.replace(&rekeyed, ""), &[a])
    };
    let elsewhere = {
        let text = set(&last, "rekeyed", "3");
        sealed(&text, &[c])
    };
    vec![
        Vector::refused(
            ("key-of-unsigned-feed", "F15"),
            "The reader has a key, and the feed none.",
            ("short", short),
            "unsigned",
        )
        .key(a),
        Vector::refused(
            ("key-of-others", "F15"),
            "The reader has another key than the feed.",
            ("signed", signed),
            "signature",
        )
        .key(b),
        Vector::refused(
            ("key-of-mark-gone", "F15"),
            "The feed was signed when the mark was made, and now is not.",
            ("signed", signed),
            "unsigned",
        )
        .mark(2, Some(a))
        .change("pulse.json", sealed(&unsigned, &[])),
        Vector::refused(
            ("key-of-mark-other", "F15"),
            "The feed has another key than the mark.",
            ("signed", signed),
            "signature",
        )
        .mark(2, Some(b)),
        of_last("signed-by-first-key", "F16", "A record is signed by the first of three keys alone.", "signature", &[a]),
        of_last("signed-by-second-key", "F16", "A record is signed by the second of three keys alone.", "signature", &[b]),
        change("change-by-old-key", "The change of keys is signed by the old key alone.", "signature", &[b]),
        change("change-by-new-key", "The change of keys is signed by the new key alone.", "signature", &[c]),
        change("change-unsigned", "The change of keys is not signed.", "unsigned", &[]),
        Vector::refused(
            ("first-key-goes-on", "F13 F15 F16"),
            "A record that the first key signs, and that says nothing of the others, follows the mark.",
            ("rekeyed", rekeyed),
            "signature chain",
        )
        .key(a)
        .mark(6, Some(c))
        .change(&record_name(7), stolen.clone())
        .change(&data_name(7), b"weights of somebody else".to_vec()),
        Vector::refused(
            ("first-key-goes-on-without-mark", "F12 F16"),
            "The same, for a reader that has the newest key.",
            ("rekeyed", rekeyed),
            "signature chain",
        )
        .key(c)
        .change(&record_name(7), stolen)
        .change(&data_name(7), b"weights of somebody else".to_vec()),
        Vector::refused(
            ("rekeyed-by-another", "F17"),
            "The newest record says that version 3 changed the key, which it did not.",
            ("rekeyed", rekeyed),
            "chain signature",
        )
        .key(a)
        .change(&record_name(6), elsewhere),
    ]
}

fn marks(feeds: &Feeds) -> Vec<Vector> {
    let (plain, short) = (&feeds["plain"], &feeds["short"]);
    let bad =
        |name, rules, shows, kinds| Vector::refused((name, rules), shows, ("plain", plain), kinds);
    let mut other = plain.clone();
    let seven = sealed(&set(&payload(plain, &record_name(7)), "time", "1"), &[]);
    other.insert(record_name(7), seven.clone());
    let mut rewritten = relinked(&other, 8, 11, &|text, _| sealed(text, &[]));
    rewritten.insert(record_name(7), seven.clone());
    let log = |vector: Vector, versions: std::ops::RangeInclusive<u64>| {
        versions.fold(vector, |vector, version| vector.without(&record_name(version)))
    };
    vec![
        log(
            bad("rolled-back", "F27", "The two newest records are gone.", "rolled-back")
                .mark(11, None)
                .held(11),
            10..=11,
        ),
        log(
            bad("rolled-back-to-nothing", "F27", "All records are gone.", "rolled-back")
                .mark(11, None),
            0..=11,
        ),
        bad("forked", "F27", "The log was written again from version 7 on.", "forked chain")
            .mark(9, None)
            .held(9)
            .change_all(rewritten.clone()),
        log(
            bad(
                "forked-head",
                "F27",
                "The newest record is not the one that was served.",
                "forked",
            )
            .mark(7, None)
            .held(7)
            .change(&record_name(7), seven),
            8..=11,
        ),
        Vector::refused(
            ("mark-of-other-run", "F28"),
            "The feed is of another run than the mark.",
            ("short", short),
            "run",
        )
        .mark(1, None)
        .change_all(feeds["other"].clone()),
        bad(
            "at-mark-of-other-run",
            "F28",
            "An old version is asked for, of another run than the mark.",
            "run",
        )
        .mark(1, None)
        .at(0)
        .change_all(
            feeds["other"]
                .iter()
                .filter(|(name, _)| *name == "pulse.json")
                .map(|(name, bytes)| (name.clone(), bytes.clone()))
                .collect(),
        ),
    ]
}

/// Version 2 is wanted, 1 is held, and one patch leads there.
fn contents(feeds: &Feeds) -> Vec<Vector> {
    let short = &feeds["short"];
    let object = patch_of(short, 2);
    let patch = &short[&object];
    let of = |name, rules, shows, kinds| {
        Vector::refused((name, rules), shows, ("short", short), kinds).mark(1, None).held(1)
    };
    let plain =
        |name, shows, bytes: Vec<u8>| of(name, "F29", shows, "data lost").change(&object, bytes);
    let record = payload(short, &record_name(2));
    // The record names other data, truly.
    let named = |name, shows, bytes: &[u8]| {
        let text = set(&record, "patch", &data(&object, bytes));
        of(name, "F29", shows, "data lost")
            .change(&object, bytes.to_vec())
            .change(&record_name(2), sealed(&text, &[]))
    };
    let size = |name, shows, kinds, bytes: &str| {
        let text = set_in(&record, "patch", "bytes", bytes);
        of(name, "F29", shows, kinds).change(&record_name(2), sealed(&text, &[]))
    };
    // A patch that promises what it does not make: its footer and the record have another target.
    let promised = "77".repeat(32);
    let target = hex::decode(text(&record, "target")).unwrap();
    let forged = forge::replaced(patch, b'F', &target, &hex::decode(&promised).unwrap());
    let lying = set(&record, "target", &quoted(&promised));
    let lying = set(&lying, "patch", &data(&object, &forged));
    let longer = [&patch[..], b"\0"].concat();
    let snapshot = &short[&anchor_of(short, 0)];
    let mut none = of("data-empty", "F29", "The record names a patch of no bytes.", "data lost");
    none = none.change(&object, Vec::new());
    let empty = set(&record, "patch", &data(&object, b""));
    vec![
        plain("data-swapped", "The patch has another byte.", swapped(patch)),
        plain("data-cut", "The patch is cut off.", patch[..patch.len() - 1].to_vec()),
        plain("data-longer", "The patch is a byte longer.", longer.clone()),
        plain(
            "data-of-another",
            "The patch is that of version 1.",
            short[&patch_of(short, 1)].clone(),
        ),
        size(
            "size-more",
            "The record names one byte more than there is.",
            "data lost",
            &(patch.len() + 1).to_string(),
        ),
        size("size-huge", "The record names 2^53 bytes.", "data lost limit", "9007199254740992"),
        size("size-none", "The record names no byte.", "data lost", "0"),
        none.change(&record_name(2), sealed(&empty, &[])),
        named("data-no-patch", "The record names data that is no patch.", b"no patch"),
        named("data-trailing", "The record names a patch with a byte after it.", &longer),
        named(
            "data-cut-named",
            "The record names a patch that is cut off.",
            &patch[..patch.len() - 9],
        ),
        named(
            "data-other-ends",
            "The record names the patch of version 1.",
            &short[&patch_of(short, 1)],
        ),
        named("data-snapshot", "The record names a snapshot as its patch.", snapshot),
        of(
            "result",
            "F30",
            "The patch makes something else than it and the record say.",
            "result lost",
        )
        .change(&object, forged)
        .change(&record_name(2), sealed(&lying, &[])),
        Vector::refused(
            ("anchor-with-base", "F29"),
            "The only anchor is a patch of version 0 from another one.",
            ("short", short),
            "data lost",
        )
        .without(&record_name(1))
        .without(&record_name(2))
        .change_all({
            let first = payload(short, &record_name(0));
            let other = &feeds["other"][&patch_of(&feeds["other"], 1)];
            let anchor = set(get(&first, "anchor"), "data", &data(&data_name(0), other));
            Objects::from([
                (record_name(0), sealed(&set(&first, "anchor", &anchor), &[])),
                (data_name(0), other.clone()),
            ])
        }),
    ]
}

fn lost(feeds: &Feeds) -> Vec<Vector> {
    let (plain, short) = (&feeds["plain"], &feeds["short"]);
    let bad = |name, shows| Vector::refused((name, "F32"), shows, ("short", short), "lost");
    let empty = [0, 1, 2]
        .into_iter()
        .fold(bad("no-record", "A feed without a record."), |vector, version| {
            vector.without(&record_name(version))
        });
    vec![
        Vector::refused(("no-feed", "F7"), "There is no pulse.json.", ("short", short), "no-feed")
            .without("pulse.json"),
        empty,
        bad("next-absent", "The patch after what is held was pruned.")
            .held(1)
            .mark(1, None)
            .without(&patch_of(short, 2)),
        bad("all-absent", "The only anchor was pruned, and nothing is held.")
            .without(&anchor_of(short, 0)),
        bad("at-absent", "A version whose patch was pruned is asked for by number.")
            .at(2)
            .without(&patch_of(short, 2)),
        bad("at-later", "A version that is not there yet is asked for by number.").at(3),
        bad("below-mark", "Only versions older than the mark can be reached.")
            .mark(2, None)
            .without(&patch_of(short, 2)),
        Vector::refused(
            ("newest-malformed", "F27"),
            "The record after the newest is cut off: it is not passed over.",
            ("plain", plain),
            "malformed",
        )
        .mark(11, None)
        .change(&record_name(12), plain[&record_name(11)][..99].to_vec()),
    ]
}
