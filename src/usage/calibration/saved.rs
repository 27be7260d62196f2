//! What was learned, as bytes that outlive the process.

use serde::{Deserialize, Serialize};

use super::{COUNTED, Calibration, FEATURES, Kind, Kindred, Learned, Noise, PRIOR, PRIOR_COUNTED};
use crate::usage::lengths::Lengths;
use crate::usage::regression::{Belief, Regression};

/// What is saved of an older or newer layout is not read: it is learned again within an hour.
const VERSION: u32 = 1;

#[derive(Deserialize, Serialize)]
struct Saved {
    version: u32,
    kinds: Vec<Option<[Rule; 2]>>,
    noise: Noise,
    seen: u64,
    lengths: Lengths,
}

/// A rule: what [`Regression::parts`] has, by rows.
#[derive(Deserialize, Serialize)]
struct Rule {
    precision: Vec<f64>,
    shift: Vec<f64>,
    noise: Noise,
    seen: u64,
}

impl Rule {
    fn of<const N: usize>(learned: &Learned<N>) -> Self {
        let (precision, shift) = learned.rule.parts();
        Self {
            precision: precision.as_flattened().to_vec(),
            shift: shift.to_vec(),
            noise: learned.noise,
            seen: learned.seen,
        }
    }

    fn learned<const N: usize>(self, prior: &'static [Belief; N]) -> Option<Learned<N>> {
        let Self { precision, shift, noise, seen } = self;
        let (rows, rest) = precision.as_chunks::<N>();
        if !rest.is_empty() || !noise.is_sound() {
            return None;
        }
        let rule = Regression::from_parts(prior, rows.try_into().ok()?, shift.try_into().ok()?)?;
        Some(Learned { rule, noise, seen })
    }
}

impl Calibration {
    /// What was learned as bytes.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        let both = |it: &Kindred| [Rule::of(&it.text), Rule::of(&it.counted)];
        let saved = Saved {
            version: VERSION,
            kinds: self.kinds.iter().map(|kind| kind.as_deref().map(both)).collect(),
            noise: self.noise,
            seen: self.seen,
            lengths: self.lengths.clone(),
        };
        // Everything in it can be written, and a vector takes it.
        rmp_serde::to_vec(&saved).unwrap_or_default()
    }

    /// What was learned before; `None` if these are not bytes of this version's.
    #[must_use]
    pub fn load(bytes: &[u8]) -> Option<Self> {
        let saved: Saved = rmp_serde::from_slice(bytes).ok()?;
        let Saved { version, kinds, noise, seen, lengths } = saved;
        let sound = version == VERSION
            && kinds.len() == Kind::COUNT
            && noise.is_sound()
            && lengths.is_sound();
        if !sound {
            return None;
        }
        let mut loaded = Self { noise, seen, lengths: lengths.loaded(), ..Self::default() };
        for (place, saved) in loaded.kinds.iter_mut().zip(kinds) {
            if let Some([text, counted]) = saved {
                let text = text.learned::<FEATURES>(&PRIOR)?;
                let counted = counted.learned::<COUNTED>(&PRIOR_COUNTED)?;
                *place = Some(Box::new(Kindred { text, counted }));
            }
        }
        Some(loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::{BodyKind, Demand, EstimateRule, Lesson, Usage};

    fn demand(text: &str) -> Demand {
        let kind = BodyKind::from_headers(None, None).unwrap();
        let body =
            serde_json::json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        Demand::read(kind, body.to_string().as_bytes(), 1 << 20).unwrap()
    }

    #[test]
    fn what_was_learned_says_the_same_after_a_restart_and_goes_on_learning() {
        let mut before = Calibration::default();
        let rule = EstimateRule::assumed(1_000);
        let text = |step: u64| {
            "the tide comes in and goes out ".repeat(usize::try_from(step % 9 + 1).unwrap())
        };
        let answer = |step: u64| Lesson {
            usage: Usage {
                prompt: 8 * (step % 9 + 1) + 7,
                completion: 40 + step % 5,
                total: 0,
                cached: 0,
            },
            counted: step.is_multiple_of(3).then_some(8 * (step % 9 + 1)),
            cut: false,
        };
        let learn = |it: &mut Calibration, steps: std::ops::Range<u64>| {
            steps.for_each(|step| it.learn(&demand(&text(step)), answer(step)));
        };
        learn(&mut before, 0..150);
        let bytes = before.save();
        assert!(bytes.len() < 8_000, "{}", bytes.len());
        let mut after = Calibration::load(&bytes).unwrap();
        let says = |it: &Calibration| {
            let all = (1..20).map(|step| {
                let demand = demand(&text(step * 7));
                (
                    it.prompt(&rule, &demand, Some(60)),
                    it.prompt(&rule, &demand, None),
                    it.fair(&rule, &demand),
                )
            });
            (all.collect::<Vec<_>>(), it.summary())
        };
        assert_eq!(says(&after), says(&before));
        assert!(says(&after).0.iter().any(|it| it.1 < rule.estimate(&demand(&text(7))).prompt));
        learn(&mut before, 150..300);
        learn(&mut after, 150..300);
        assert_eq!(says(&after), says(&before));
    }

    #[test]
    fn what_is_not_sound_is_learned_again() {
        let mut learned = Calibration::default();
        let usage = Usage { prompt: 9, completion: 5, total: 14, cached: 0 };
        learned.learn(&demand("a b c"), Lesson { usage, counted: None, cut: false });
        let bytes = learned.save();
        assert!(Calibration::load(&bytes).is_some());
        assert!(Calibration::load(&bytes[..bytes.len() - 1]).is_none());
        assert!(Calibration::load(b"").is_none());
        learned.noise = Noise::default();
        let rule = &mut learned.kinds.iter_mut().flatten().next().unwrap().text;
        rule.rule.fold(&[f64::MAX; FEATURES], 1.0, 1e-300);
        assert!(Calibration::load(&learned.save()).is_none(), "no rule has infinite weights");
    }
}
