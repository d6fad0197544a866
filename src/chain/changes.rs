//! Changes undone, and changes by one patch and then by another as one.

use crate::changes::Changes;
use crate::word::{at_width, ValueForm, Word};

impl ValueForm {
    /// The value of a change by `first` and then by `second`; zero if the second undoes the first,
    /// except in the form overwrite, which cannot tell.
    #[inline(always)]
    fn combine<W: Word>(self, first: W, second: W) -> W {
        let zero = W::narrow(0);
        match self {
            ValueForm::UlpStep => zero.zigzag_to(first).zigzag_to(second).zigzag_from(zero),
            ValueForm::Xor => first.xor(second),
            ValueForm::Overwrite => second,
        }
    }

    /// The value that leads back. In the form overwrite, which forgets what was there, there is none.
    #[inline(always)]
    fn invert<W: Word>(self, value: W) -> W {
        let zero = W::narrow(0);
        match self {
            ValueForm::UlpStep => zero.zigzag_from(zero.zigzag_to(value)),
            ValueForm::Xor | ValueForm::Overwrite => value,
        }
    }
}

impl Changes {
    /// Turns the changes round, which must not be of the form overwrite.
    pub(super) fn invert(&mut self, bytes: usize, form: ValueForm) {
        at_width!(bytes, invert(self, form));
    }

    /// These changes and then those, as one. Elements that come back to where they were vanish.
    pub(super) fn combine(&self, then: &Changes, bytes: usize, form: ValueForm) -> Changes {
        at_width!(bytes, combine(self, then, form))
    }
}

/// Changes of one patch after another as one, whose work grows with the changes and hardly with the
/// number of patches: only sums of about as many are combined, as in a merge sort.
#[derive(Debug)]
pub(super) struct Sum {
    width: usize,
    form: ValueForm,
    /// Each with the number of halvings that it stands for, which descends.
    sums: Vec<(u32, Changes)>,
}

impl Sum {
    /// Of elements of so many bytes, and values of one form.
    pub fn new(width: usize, form: ValueForm) -> Self {
        Sum { width, form, sums: Vec::new() }
    }

    /// Adds what the next patch changes.
    pub fn add(&mut self, changes: Changes) {
        if changes.elements.is_empty() {
            return;
        }
        let mut next = (0, changes);
        while let Some((depth, before)) = self.sums.pop_if(|(depth, _)| *depth == next.0) {
            next = (depth + 1, before.combine(&next.1, self.width, self.form));
        }
        self.sums.push(next);
    }

    pub fn finish(self) -> Changes {
        let Sum { width, form, sums } = self;
        let from_the_end = sums.into_iter().rev().map(|(_, changes)| changes);
        from_the_end.reduce(|later, before| before.combine(&later, width, form)).unwrap_or_default()
    }
}

fn invert<W: Word>(changes: &mut Changes, form: ValueForm) {
    for value in &mut changes.values {
        *value = form.invert(W::narrow(*value)).widen();
    }
}

fn combine<W: Word>(first: &Changes, second: &Changes, form: ValueForm) -> Changes {
    let mut combined = Changes::default();
    let mut put = |element: u32, value: u64| {
        combined.elements.push(element);
        combined.values.push(value);
    };
    let (mut a, mut b) = (0, 0);
    while let (Some(&left), Some(&right)) = (first.elements.get(a), second.elements.get(b)) {
        if left < right {
            put(left, first.values[a]);
        } else if right < left {
            put(right, second.values[b]);
        } else {
            let value =
                form.combine(W::narrow(first.values[a]), W::narrow(second.values[b])).widen();
            if value != 0 || form == ValueForm::Overwrite {
                put(left, value);
            }
        }
        a += usize::from(left <= right);
        b += usize::from(right <= left);
    }
    for (changes, from) in [(first, a), (second, b)] {
        combined.elements.extend_from_slice(&changes.elements[from..]);
        combined.values.extend_from_slice(&changes.values[from..]);
    }
    combined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::Order;

    #[test]
    fn values_add_up_and_lead_back() {
        for order in [Order::Unsigned, Order::Signed, Order::Float { mantissa: 7 }] {
            for bits in 0..=u16::MAX {
                let (middle, target) =
                    (bits.wrapping_mul(40503) ^ 0x8000, bits.wrapping_mul(25717));
                for form in [ValueForm::UlpStep, ValueForm::Xor, ValueForm::Overwrite] {
                    let (first, second) =
                        (form.value(order, bits, middle), form.value(order, middle, target));
                    assert_eq!(form.combine(first, second), form.value(order, bits, target));
                    if form != ValueForm::Overwrite {
                        let back = form.invert(first);
                        assert_eq!(
                            (back, form.combine(first, back)),
                            (form.value(order, middle, bits), 0)
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn combined_changes_are_in_order_and_those_undone_are_gone() {
        let changes = |pairs: &[(u32, u64)]| Changes {
            elements: pairs.iter().map(|pair| pair.0).collect(),
            values: pairs.iter().map(|pair| pair.1).collect(),
        };
        // Steps +1, -1, +2 at 1, 4, 9; then +1, +1, +1 at 0, 4, 9: the element 4 is back.
        let (first, second) =
            (changes(&[(1, 2), (4, 1), (9, 4)]), changes(&[(0, 2), (4, 2), (9, 2)]));
        let combined = first.combine(&second, 2, ValueForm::UlpStep);
        assert_eq!((combined.elements, combined.values), (vec![0, 1, 9], vec![2, 2, 6]));
        let overwritten = first.combine(&second, 2, ValueForm::Overwrite);
        assert_eq!(
            (overwritten.elements, overwritten.values),
            (vec![0, 1, 4, 9], vec![2, 2, 2, 2])
        );
        assert!(first.combine(&first, 2, ValueForm::Xor).elements.is_empty());
    }

    /// The sum of many is the same as one after the other, and the work for it is not: no change is
    /// touched more often than there are halvings of the number of patches.
    #[test]
    fn a_sum_is_that_of_one_after_the_other() {
        let changes = |seed: u32| {
            let elements: Vec<u32> = (0..200).filter(|i| (i * 7 + seed * 13) % 5 < 2).collect();
            let values = elements.iter().map(|i| u64::from(i * seed % 60 + 1)).collect();
            Changes { elements, values }
        };
        for form in [ValueForm::UlpStep, ValueForm::Xor] {
            for count in 0..40 {
                let mut sum = Sum::new(2, form);
                let mut expected = Changes::default();
                for seed in 0..count {
                    sum.add(changes(seed));
                    expected = expected.combine(&changes(seed), 2, form);
                    assert!(sum.sums.len() <= 7, "{} sums of {seed}", sum.sums.len());
                }
                let found = sum.finish();
                assert_eq!((found.elements, found.values), (expected.elements, expected.values));
            }
        }
    }
}
