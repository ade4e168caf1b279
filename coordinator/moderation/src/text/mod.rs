//! Text: undoes disguises, applies word rules, and compares sentences with the policy's pairs.

pub mod normalise;
pub mod rules;
pub mod similarity;

pub use normalise::readings;
pub use similarity::Similarity;
