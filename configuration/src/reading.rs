//! What could be read of a text, right or wrong.

use alloc::string::String;
use alloc::vec::Vec;

use crate::machine::problem;
use crate::model::{self, Configuration};
use crate::position::{Placed, Position};
use crate::problem::{Problem, Rule};
use crate::vm::Wishes;

/// A text that was read as far as possible: what its VMs want of the machine, and what is wrong with it. The machine is
/// asked about the wishes even where something is wrong, so that a person has all of it in one report.
#[derive(Clone, Debug)]
pub struct Reading {
    vms: Vec<Wishes>,
    is_toml: bool,
    /// The configuration, or every problem of the text; never both, never none.
    result: Result<Configuration, Vec<Problem>>,
}

/// What of a VM the machine refuses: the key that a problem stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `memory`.
    Memory,
    /// `image`.
    Image,
    /// A selector in `devices`, by its place there.
    Device(usize),
}

impl Reading {
    pub(crate) fn new(vms: Vec<Wishes>, is_toml: bool, result: Result<Configuration, Vec<Problem>>) -> Self {
        Self { vms, is_toml, result }
    }

    /// The VMs, in the order of the file: those that are complete and those that are not.
    pub fn vms(&self) -> &[Wishes] {
        &self.vms
    }

    /// Whether all of the text is TOML. Where it is not, it is unknown what the rest would have said.
    pub fn is_toml(&self) -> bool {
        self.is_toml
    }

    /// What is wrong with the text, whatever the machine.
    pub fn problems(&self) -> &[Problem] {
        self.result.as_ref().err().map_or(&[], Vec::as_slice)
    }

    /// The configuration; `None` where the text has problems.
    pub fn configuration(&self) -> Option<&Configuration> {
        self.result.as_ref().ok()
    }

    /// The files that the VMs name, each once, in the order of the file.
    pub fn files(&self) -> Vec<&Placed<String>> {
        model::each_once(self.vms.iter().filter_map(|vm| vm.image.as_ref()).map(|image| &image.value))
    }

    /// A problem that the machine has with what the VM at this index says under `key`. `reason` is a sentence without
    /// its full stop that names the thing, the rule and the remedy.
    pub fn refusal(&self, vm: usize, key: Key, reason: String) -> Problem {
        let Some(vm) = self.vms.get(vm) else {
            return Problem::new(Position { line: 1, column: 1 }, "the configuration".into(), Rule::Unsuitable(reason));
        };
        let (name, position) = match key {
            Key::Memory => ("memory", vm.memory.as_ref().map(|memory| memory.position)),
            Key::Image => ("image", vm.image.as_ref().map(|image| image.position)),
            Key::Device(index) => ("devices", vm.devices.get(index).map(|selector| selector.position)),
        };
        let place = Placed { value: (), position: position.unwrap_or(vm.position) };
        problem(vm, name, &place, Rule::Unsuitable(reason))
    }

    /// The configuration, if neither the text has a problem nor the machine, whose problems are `found`.
    ///
    /// # Errors
    ///
    /// All problems, in the order of their places; never an empty list.
    pub fn finish(self, found: Vec<Problem>) -> Result<Configuration, Vec<Problem>> {
        let mut problems = match self.result {
            Ok(configuration) if found.is_empty() => return Ok(configuration),
            Ok(_) => Vec::new(),
            Err(problems) => problems,
        };
        problems.extend(found);
        problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(problems)
    }
}
