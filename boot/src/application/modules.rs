//! The files that the configuration names.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use configuration::Configuration;
use handoff::{Array, Module, Range};

use super::error::BootError;
use super::volume::Volume;

/// Reads each file once and leaves the list where the kernel finds it.
pub(super) fn read(configuration: &Configuration, volume: &mut Volume) -> Result<Array, BootError> {
    let mut modules = Vec::new();
    for file in configuration.files() {
        let data = volume.read(&file.value)?.range();
        let path: &'static str = String::leak(file.value.clone());
        modules.push(Module { path: Range { address: path.as_ptr() as u64, length: path.len() as u64 }, data });
    }
    let modules: &'static [Module] = Box::leak(modules.into_boxed_slice());
    Ok(Array { address: modules.as_ptr() as u64, count: modules.len() as u64 })
}
