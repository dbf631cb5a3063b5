//! Which vCPU runs where, and the life of each VM.

mod life;

pub use life::{Life, Phase};
