//! The cheapest way in bytes from what a reader holds to a version (FEED.md §7.2).

use std::collections::BTreeMap;

use pulse::hash::Digest;

use crate::hint::ByProduct;
use crate::record::{Data, Sealed};

/// Something to fetch and to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The version that it starts from; `None` of an anchor.
    pub from: Option<u64>,
    /// The version that it leads to.
    pub to: u64,
    /// Checkpoint digest of that version.
    pub target: Digest,
    /// The object.
    pub data: Data,
    /// Whether a record names it, or somebody made it afterwards.
    pub is_recorded: bool,
}

/// Parts in their order: each starts where the one before it leads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Way {
    /// The parts.
    pub parts: Vec<Part>,
}

impl Way {
    /// Bytes to fetch.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.data.bytes).fold(0, u64::saturating_add)
    }
}

/// Bytes first, then requests.
type Cost = (u64, usize);

/// What may be used on the way. Records are in sequence and proved; by-products are what somebody says.
pub(crate) struct Map<'a> {
    parts: Vec<Part>,
    /// Target of each version, from the first record on.
    targets: BTreeMap<u64, Digest>,
    /// Whether data failed before; the second is whether a record names it.
    is_barred: &'a (dyn Fn(&Data, bool) -> bool + Sync),
}

impl<'a> Map<'a> {
    pub fn new(
        section: &[impl AsRef<Sealed>],
        is_barred: &'a (dyn Fn(&Data, bool) -> bool + Sync),
    ) -> Self {
        let mut map = Map { parts: Vec::new(), targets: BTreeMap::new(), is_barred };
        for sealed in section {
            let record = &sealed.as_ref().record;
            map.targets.insert(record.version, record.target);
            let before = record.version.checked_sub(1);
            if let (Some(data), Some(from)) = (&record.patch, before) {
                map.add(Some(from), record.version, record.target, data, true);
            }
        }
        // An anchor is recorded with its version or after it, and every later record repeats it.
        let anchors = section.iter().map(|sealed| &sealed.as_ref().record.anchor);
        let mut last = None;
        for anchor in anchors {
            if last.replace(anchor.version) != Some(anchor.version) {
                map.add(None, anchor.version, anchor.target, &anchor.data, true);
            }
        }
        map
    }

    /// Adds what no record names, if it starts and ends at what records name (F9, F29).
    pub fn add_by_product(&mut self, made: &ByProduct) {
        let starts_right = match made.from {
            Some((from, base)) => self.targets.get(&from) == Some(&base),
            None => true,
        };
        if starts_right {
            self.add(made.from.map(|(from, _)| from), made.to, made.target, &made.data, false);
        }
    }

    fn add(&mut self, from: Option<u64>, to: u64, target: Digest, data: &Data, is_recorded: bool) {
        let ends_right = self.targets.get(&to) == Some(&target);
        if ends_right && !(self.is_barred)(data, is_recorded) {
            self.parts.push(Part { from, to, target, data: data.clone(), is_recorded });
        }
    }

    /// The cheapest way to `wanted`, from the version that is held if one is; `None` if there is none.
    pub fn way(&self, held: Option<u64>, wanted: u64) -> Option<Way> {
        let best = self.best(held);
        best.contains_key(&wanted).then(|| self.along(&best, wanted))
    }

    /// The newest version up to `wanted` to which there is a way, and the way.
    pub fn newest(&self, held: Option<u64>, wanted: u64) -> Option<(u64, Way)> {
        let best = self.best(held);
        let (version, _) = best.range(..=wanted).next_back()?;
        Some((*version, self.along(&best, *version)))
    }

    fn along(&self, best: &BTreeMap<u64, Step>, wanted: u64) -> Way {
        let mut parts = Vec::new();
        let mut at = Some(wanted);
        while let Some(step) = at.and_then(|at| best.get(&at)) {
            parts.extend(step.part.and_then(|number| self.parts.get(number)).cloned());
            at = step.before;
        }
        parts.reverse();
        Way { parts }
    }

    /// The last step of the cheapest way to each version that can be reached.
    fn best(&self, held: Option<u64>) -> BTreeMap<u64, Step> {
        let mut by_end: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (number, part) in self.parts.iter().enumerate() {
            by_end.entry(part.to).or_default().push(number);
        }
        // Every part leads forward, so that one pass in the order of versions is enough.
        let mut best: BTreeMap<u64, Step> = BTreeMap::new();
        for (&version, target) in &self.targets {
            let here = Step { cost: (0, 0), part: None, before: None };
            let mut steps: Vec<Step> =
                (held == Some(version)).then_some(here).into_iter().collect();
            let before = version.checked_sub(1);
            if let Some(before) = before.filter(|at| self.targets.get(at) == Some(target)) {
                // A version that changes nothing.
                let same = best.get(&before);
                steps.extend(same.map(|step| Step {
                    cost: step.cost,
                    part: None,
                    before: Some(before),
                }));
            }
            for &number in by_end.get(&version).into_iter().flatten() {
                let part = &self.parts[number];
                let start = match part.from {
                    None => Some((0, 0)),
                    Some(from) => best.get(&from).map(|step| step.cost),
                };
                steps.extend(start.map(|(bytes, count)| Step {
                    cost: (bytes.saturating_add(part.data.bytes), count + 1),
                    part: Some(number),
                    before: part.from,
                }));
            }
            if let Some(step) = steps.into_iter().min_by_key(|step| step.cost) {
                best.insert(version, step);
            }
        }
        best
    }
}

/// How a version is reached.
#[derive(Debug, Clone, Copy)]
struct Step {
    cost: Cost,
    part: Option<usize>,
    /// `None` where a way begins.
    before: Option<u64>,
}
