//! Text: undoes disguises, applies word rules, and judges what sentences mean, by the policy's pairs and heads.

mod ages;
mod clauses;
mod codes;
mod harmless;
pub mod heads;
mod lookalikes;
pub mod meaning;
pub mod normalise;
pub mod rules;
pub mod similarity;
mod spacing;
mod units;
pub mod words;
mod young;

pub use heads::Heads;
pub use meaning::Meaning;
pub use normalise::readings;
pub use similarity::Similarity;
pub use words::Words;
