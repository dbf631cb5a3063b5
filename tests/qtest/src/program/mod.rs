//! Random programs on QEMU's unit and on the model: table writes, invalidations, transfers and messages of devices.
//!
//! Half of the programs are careful: what they change they invalidate, and there is one right answer to every request.
//! The others are careless, and the two units may differ in what they remember, as [`divergence`] lists.

mod divergence;
mod layout;
mod message;
mod modelled;
mod operation;
mod pair;
mod run;
mod search;
mod transfer;

pub(crate) use search::{search, wanted_seed};
