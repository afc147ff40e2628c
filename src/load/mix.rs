//! A weighted choice among several things.

/// Weights, prepared for drawing.
#[derive(Debug, Clone)]
pub(super) struct Mix {
    /// The sum of the weights up to each.
    sums: Vec<u64>,
}

impl Mix {
    pub(super) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let mut total = 0;
        let sum = |weight| {
            total += u64::from(weight);
            total
        };
        Self {
            sums: weights.into_iter().map(sum).collect(),
        }
    }

    /// Draws an index; the first if nothing has a weight.
    pub(super) fn draw(&self, random: &mut fastrand::Rng) -> usize {
        match self.sums.last() {
            // The usual case, a single choice, costs nothing.
            Some(&total) if self.sums.len() > 1 && total > 0 => {
                let drawn = random.u64(0..total);
                self.sums.partition_point(|&sum| sum <= drawn)
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_come_by_their_weights() {
        let mix = Mix::new([1, 0, 3]);
        let mut random = fastrand::Rng::with_seed(1);
        let mut counts = [0; 3];
        for _ in 0..4000 {
            counts[mix.draw(&mut random)] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((900..1100).contains(&counts[0]), "{counts:?}");
        assert_eq!(Mix::new([0, 0]).draw(&mut random), 0);
    }
}
