//! What fuzz targets do with their bytes: no part of the interface.

use std::collections::BTreeMap;
use std::sync::Arc;

use pulse::hash::Digest;

use crate::document::{seal, Document};
use crate::hint::{parse_floor, ByProduct, Hints, Latest};
use crate::id::{Run, Writer};
use crate::manifest::Manifest;
use crate::name;
use crate::record::{Anchor, Data, Links, Record, Sealed};
use crate::way::{Map, Way};

/// Reads bytes as each kind of document. What is accepted as a record is written again, and is then the
/// same record.
pub fn documents(bytes: &[u8]) {
    // What a fuzzer does not guess: the seal of its own payload.
    let payload = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let sealed = std::str::from_utf8(payload).map(|payload| seal(payload, &[]));
    for bytes in std::iter::once(bytes).chain(sealed.as_deref().ok()) {
        let Ok(document) = Document::parse("x", bytes) else { continue };
        let version = document.fields.integer("version").unwrap_or(0);
        let run = Run(document.fields.hex("run").unwrap_or([0; 16]));
        if let Ok(sealed) = Sealed::parse(&name::record(version), bytes) {
            let again = sealed.record.seal(&[]);
            let again = Sealed::parse(&name::record(version), &again).unwrap_or_else(|error| {
                panic!("what was written is refused: {error}: {:?}", sealed.record)
            });
            assert_eq!(again.record, sealed.record);
            let _ = sealed.check_follows(&again);
            let _ = sealed.check_leads_to(&again);
        }
        let _ = Manifest::parse(bytes);
        let _ = Latest::parse(bytes, run, |_| None);
        let _ = parse_floor(bytes, run);
        if let Ok(hints) = Hints::parse(bytes, run) {
            assert_eq!(Hints::parse(&hints.seal(run), run).ok(), Some(hints));
        }
        let (from, to) = (document.fields.integer("from"), document.fields.integer("to"));
        let named = match (from, to) {
            (Ok(from), Ok(to)) => name::skip(from, to, 7),
            _ => name::anchor(version, 7),
        };
        if let Ok(made) = ByProduct::parse(&named, bytes, run) {
            assert_eq!(ByProduct::parse(&named, &made.seal(run), run).ok(), Some(made));
        }
    }
}

/// Bytes as choices.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn next(&mut self, below: u64) -> u64 {
        let (byte, rest) = self.0.split_first().map_or((0, &[][..]), |(byte, rest)| (*byte, rest));
        self.0 = rest;
        u64::from(byte) % below.max(1)
    }
}

fn target(weights: u64) -> Digest {
    Digest([weights as u8; 32])
}

fn data(version: u64, bytes: u64, nonce: u64) -> Data {
    Data { object: name::data(version, nonce), sha256: Digest([nonce as u8; 32]), bytes }
}

/// Makes a feed of a few versions with skips and anchors, honest ones and others, and compares the way that
/// is found with the cheapest of all ways.
pub fn ways(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let count = 1 + choices.next(9);
    let (run, writer) = (Run([1; 16]), Writer([2; 16]));
    let mut section: Vec<Sealed> = Vec::new();
    let mut newest = None;
    for version in 0..count {
        let weights = if version > 0 && choices.next(5) == 0 { None } else { Some(10 + version) };
        let before = section.last();
        let base = before.map(|before| before.record.target);
        let target = weights.map(target).or(base).unwrap_or_default();
        let is_change = base != Some(target);
        let is_anchored = version == 0 || choices.next(4) == 0;
        let has_patch = version > 0 && is_change && (!is_anchored || choices.next(2) == 0);
        if is_anchored {
            let data = data(version, 20 + choices.next(60), 100 + version);
            newest = Some(Anchor { version, target, data });
        }
        let Some(anchor) = newest.clone() else { return };
        let links = before.map(|before| {
            let back = section[usize::try_from(version & (version - 1)).unwrap_or(0)].digest;
            Links { previous: before.digest, back, base: before.record.target }
        });
        let record = Record {
            run,
            version,
            epoch: 1,
            writer,
            links,
            target,
            step: None,
            time: 1,
            patch: has_patch.then(|| data(version, 1 + choices.next(20), version)),
            anchor,
            rekeyed: None,
            new_key: None,
            ended: false,
        };
        let name = name::record(version);
        section.push(
            Sealed::parse(&name, &record.seal(&[]))
                .unwrap_or_else(|error| panic!("a record that was made is refused: {error}")),
        );
        if let [.., before, last] = &section[..] {
            last.check_follows(before).unwrap_or_else(|error| panic!("{error}"));
        }
    }
    let mut made = Vec::new();
    for number in 0..choices.next(6) {
        let to = choices.next(count);
        let from = choices.next(count + 1);
        // Some start or end elsewhere than they say.
        let lie = choices.next(6);
        let of = |version: u64| section[usize::try_from(version).unwrap_or(0)].record.target;
        let end = if lie == 0 { target(99) } else { of(to) };
        let start = (from < to).then(|| (from, if lie == 1 { target(98) } else { of(from) }));
        let data = data(to, 1 + choices.next(40), 200 + number);
        made.push(ByProduct { from: start, to, target: end, data });
    }
    let barred = choices.next(12);
    let is_barred = |data: &Data, _: bool| data.bytes % 12 == barred;
    let shared: Vec<Arc<Sealed>> = section.iter().cloned().map(Arc::new).collect();
    let mut map = Map::new(&shared, &is_barred);
    made.iter().for_each(|made| map.add_by_product(made));
    let held = Some(choices.next(count)).filter(|_| choices.next(3) > 0);
    let wanted = count - 1;
    let found = map.way(held, wanted);
    let cheapest = cheapest(&section, &made, &is_barred, held)[&wanted];
    assert_eq!(found.as_ref().map(Way::bytes), cheapest);
    if let Some(way) = found {
        check(&way, &section, held, wanted);
    }
    if let Some((version, way)) = map.newest(held, wanted) {
        check(&way, &section, held, version);
    }
}

/// Whether a way is one: parts that follow one another, through versions of the same weights at most.
fn check(way: &Way, section: &[Sealed], held: Option<u64>, wanted: u64) {
    let of = |version: u64| section[usize::try_from(version).unwrap_or(0)].record.target;
    let mut at = held;
    for part in &way.parts {
        if let Some(from) = part.from {
            let before = at.unwrap_or_else(|| panic!("a way from nothing begins with a patch"));
            assert!((before..=from).all(|version| of(version) == of(before)), "{before} to {from}");
        }
        assert_eq!(part.target, of(part.to));
        at = Some(part.to);
    }
    let end = at.unwrap_or_else(|| panic!("a way from nothing to nothing"));
    assert!((end..=wanted).all(|version| of(version) == of(end)), "{end} to {wanted}");
}

/// Bytes of the cheapest way to each version, by trying all parts until nothing gets cheaper.
fn cheapest(
    section: &[Sealed],
    made: &[ByProduct],
    is_barred: &dyn Fn(&Data, bool) -> bool,
    held: Option<u64>,
) -> BTreeMap<u64, Option<u64>> {
    let of = |version: u64| section[usize::try_from(version).unwrap_or(0)].record.target;
    let mut parts: Vec<(Option<u64>, u64, &Data)> = Vec::new();
    for sealed in section {
        let record = &sealed.record;
        parts.push((None, record.anchor.version, &record.anchor.data));
        let before = record.version.checked_sub(1);
        parts.extend(record.patch.as_ref().map(|patch| (before, record.version, patch)));
    }
    for made in made {
        let is_honest =
            made.target == of(made.to) && made.from.is_none_or(|(from, base)| base == of(from));
        if is_honest {
            parts.push((made.from.map(|(from, _)| from), made.to, &made.data));
        }
    }
    parts.retain(|(_, _, data)| !is_barred(data, true));
    let mut best: BTreeMap<u64, Option<u64>> =
        section.iter().map(|sealed| (sealed.record.version, None)).collect();
    if let Some(held) = held {
        best.insert(held, Some(0));
    }
    let lower = |best: &mut BTreeMap<u64, Option<u64>>, at: u64, cost: Option<u64>| {
        let known = best.get(&at).copied().flatten();
        let is_lower = cost.is_some_and(|cost| known.is_none_or(|known| cost < known));
        if is_lower {
            best.insert(at, cost);
        }
        is_lower
    };
    loop {
        let mut changed = false;
        for &(from, to, data) in &parts {
            let start = from.map_or(Some(0), |from| best.get(&from).copied().flatten());
            changed |= lower(&mut best, to, start.map(|start| start + data.bytes));
        }
        for version in 1..section.len() as u64 {
            if of(version) == of(version - 1) {
                let before = best.get(&(version - 1)).copied().flatten();
                changed |= lower(&mut best, version, before);
            }
        }
        if !changed {
            return best;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that anybody gets from this seed.
    fn random(seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        std::iter::repeat_with(byte).take(64).collect()
    }

    #[test]
    fn the_way_that_is_found_is_the_cheapest_of_all() {
        for seed in 0..3_000 {
            ways(&random(seed));
        }
    }

    #[test]
    fn any_bytes_are_a_document_or_refused() {
        for seed in 0..500 {
            documents(&random(seed));
        }
        documents(
            br#"{"type":"hints","run":"00000000000000000000000000000000","anchors":[],"skips":[]}"#,
        );
    }
}
