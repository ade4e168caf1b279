//! Fourier transforms whose length is a power of two: all that the mark needs, without a dependency.

use std::ops::{Add, AddAssign, Mul, MulAssign, Sub};

/// A complex number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Complex {
    /// Real part.
    pub re: f32,
    /// Imaginary part.
    pub im: f32,
}

impl Complex {
    /// From its parts.
    pub fn new(re: f32, im: f32) -> Complex {
        Complex { re, im }
    }

    /// With the other sign of the imaginary part.
    pub fn conj(&self) -> Complex {
        Complex::new(self.re, -self.im)
    }

    /// Its size.
    pub fn norm(&self) -> f32 {
        (self.re * self.re + self.im * self.im).sqrt()
    }

    fn swapped(self) -> Complex {
        Complex::new(self.im, self.re)
    }
}

impl Add for Complex {
    type Output = Complex;

    fn add(self, other: Complex) -> Complex {
        Complex::new(self.re + other.re, self.im + other.im)
    }
}

impl AddAssign for Complex {
    fn add_assign(&mut self, other: Complex) {
        *self = *self + other;
    }
}

impl Sub for Complex {
    type Output = Complex;

    fn sub(self, other: Complex) -> Complex {
        Complex::new(self.re - other.re, self.im - other.im)
    }
}

impl Mul for Complex {
    type Output = Complex;

    fn mul(self, other: Complex) -> Complex {
        let (re, im) = (self.re * other.re, self.im * other.im);
        Complex::new(re - im, self.re * other.im + self.im * other.re)
    }
}

impl Mul<f32> for Complex {
    type Output = Complex;

    fn mul(self, by: f32) -> Complex {
        Complex::new(self.re * by, self.im * by)
    }
}

impl MulAssign for Complex {
    fn mul_assign(&mut self, other: Complex) {
        *self = *self * other;
    }
}

impl MulAssign<f32> for Complex {
    fn mul_assign(&mut self, by: f32) {
        *self = *self * by;
    }
}

/// A transform of one length.
pub struct Fft {
    length: usize,
    /// For each pass, one after the other, its factors.
    factors: Vec<Complex>,
    /// Places that change theirs with each other.
    swaps: Vec<(usize, usize)>,
}

impl Fft {
    /// Plans it. A length that is no power of two counts as the next one.
    pub fn new(length: usize) -> Fft {
        let length = length.next_power_of_two().max(2);
        let bits = length.trailing_zeros();
        let turned = |place: usize| place.reverse_bits() >> (usize::BITS - bits);
        let swaps =
            (0..length).map(|place| (place, turned(place))).filter(|(a, b)| a < b).collect();
        let mut factors = Vec::with_capacity(length);
        let mut half = 1;
        while half < length {
            for step in 0..half {
                let angle = -std::f64::consts::PI * step as f64 / half as f64;
                factors.push(Complex::new(angle.cos() as f32, angle.sin() as f32));
            }
            half *= 2;
        }
        Fft { length, factors, swaps }
    }

    /// To frequencies. Values of another length are left alone.
    pub fn forward(&self, values: &mut [Complex]) {
        if values.len() != self.length {
            return;
        }
        for (a, b) in &self.swaps {
            values.swap(*a, *b);
        }
        let (mut half, mut at) = (1, 0);
        while half < self.length {
            let factors = &self.factors[at..at + half];
            for pair in values.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for ((low, high), factor) in low.iter_mut().zip(high).zip(factors) {
                    let turned = *high * *factor;
                    (*low, *high) = (*low + turned, *low - turned);
                }
            }
            at += half;
            half *= 2;
        }
    }

    /// And back, not scaled.
    pub fn inverse(&self, values: &mut [Complex]) {
        values.iter_mut().for_each(|value| *value = value.swapped());
        self.forward(values);
        values.iter_mut().for_each(|value| *value = value.swapped());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_one_frequency_and_comes_back() {
        let fft = Fft::new(64);
        let turn = std::f32::consts::TAU / 64.0;
        let wave = |at: usize| Complex::new((5.0 * turn * at as f32).cos(), 0.0);
        let mut values: Vec<Complex> = (0..64).map(wave).collect();
        fft.forward(&mut values);
        for (bin, value) in values.iter().enumerate() {
            let expected = if bin == 5 || bin == 59 { 32.0 } else { 0.0 };
            assert!((value.norm() - expected).abs() < 1e-3, "{bin}: {value:?}");
        }
        fft.inverse(&mut values);
        assert!((0..64).all(|at| (values[at].re / 64.0 - wave(at).re).abs() < 1e-5));
    }
}
