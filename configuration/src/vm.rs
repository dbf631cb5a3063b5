//! Reading one `[[vm]]`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::device::Selector;
use crate::image;
use crate::model::{Cpus, Image, OnReset, Override, Vm};
use crate::position::{Placed, Position};
use crate::problem::Rule;
use crate::read::{Item, Notes, Section};
use crate::size::Bytes;

/// The most characters of a name: what the log's column holds.
const NAME_LIMIT: usize = 15;
/// The most virtual CPUs of a VM: what xAPIC ids below the broadcast id can address.
const CPU_LIMIT: u32 = 254;

/// What a VM wants of the machine, as far as it could be read.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// What messages call the VM: by its name, or else by its number.
    pub thing: String,
    /// Where it begins.
    pub(crate) position: Position,
    /// Its name.
    pub name: Option<Placed<String>>,
    /// Its CPUs; an empty list where they could not be read.
    pub cpus: Cpus,
    /// Its RAM in bytes.
    pub memory: Option<Placed<u64>>,
    /// What it runs, and where that stands.
    pub image: Option<Placed<Image>>,
    /// The PCI functions that it names.
    pub devices: Vec<Placed<Selector>>,
    /// The rules that are overridden for it.
    pub allow: Vec<Override>,
}

/// Reads the VM at this place in the list. There is no `Vm` where a part that it cannot be without is missing or
/// wrong; its wishes can still collide with those of others.
pub(crate) fn read(index: usize, mut item: Item<'_>, notes: &mut Notes<'_>) -> (Wishes, Option<Vm>) {
    item.thing = format!("vm number {}", index.saturating_add(1));
    let mut wishes = Wishes {
        thing: item.thing.clone(),
        position: notes.position(item.offset),
        name: None,
        cpus: Cpus::Pinned(Vec::new()),
        memory: None,
        image: None,
        devices: Vec::new(),
        allow: Vec::new(),
    };
    let Some(section) = Section::of(item, notes) else { return (wishes, None) };
    let vm = read_keys(section, &mut wishes);
    (wishes, vm)
}

fn read_keys(mut section: Section<'_, '_, '_>, wishes: &mut Wishes) -> Option<Vm> {
    let name = section.require("name", "name = \"guest\"").and_then(|item| item.read_as(name, section.notes()));
    if let Some(name) = &name {
        section.rename(format!("vm \"{name}\""));
        wishes.thing = section.thing().into();
        wishes.name = Some(name.clone());
    }
    let cpus = section.require("cpus", "cpus = [0]").and_then(|item| cpus(item, section.notes()));
    let memory = section.require("memory", "memory = \"512M\"").and_then(|item| item.read_as(memory, section.notes()));
    let image = section.require("image", "image = { multiboot = { image = \"guests/guest.elf\" } }").and_then(|item| {
        let position = section.notes().position(item.offset);
        image::read(item, section.notes()).map(|value| Placed { value, position })
    });
    let debug_exit = section.read("debug_exit").is_some_and(|debug_exit| debug_exit.value);
    let devices = section.array("devices").unwrap_or_default();
    let devices: Vec<_> = devices.into_iter().filter_map(|item| item.read_as(device, section.notes())).collect();
    let allow = section.array("allow").unwrap_or_default();
    let allow = overrides(allow, section.notes());
    wishes.cpus = cpus.clone().unwrap_or_else(|| Cpus::Pinned(Vec::new()));
    wishes.memory = memory;
    wishes.image = image.clone();
    wishes.devices = devices.clone();
    wishes.allow = allow.clone();
    let on_reset = section.read("on_reset").map(|on_reset| on_reset.value).unwrap_or_default();
    let restarts = section.read("restarts");
    if let (OnReset::Stop, Some(restarts)) = (on_reset, &restarts) {
        let thing = section.name_of("restarts");
        section.notes().problem_at(restarts.position, &thing, Rule::RestartsWithoutRestart);
    }
    section.no_more_keys();
    Some(Vm {
        name: name?,
        cpus: cpus?,
        memory: memory?,
        image: image?.value,
        debug_exit,
        devices,
        allow,
        on_reset,
        restarts: restarts.map(|restarts| restarts.value),
    })
}

fn name(name: String) -> Result<String, Rule> {
    let fits = (1..=NAME_LIMIT).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        Ok(name)
    } else {
        Err(Rule::BadName(name))
    }
}

fn cpus(item: Item<'_>, notes: &mut Notes<'_>) -> Option<Cpus> {
    if !item.value.is_table() {
        return hosts(item, notes).map(Cpus::Pinned);
    }
    let mut section = Section::of(item, notes)?;
    let count = section
        .require("count", "cpus = { count = 2, on = [0, 1] }")
        .and_then(|item| item.read_as(count, section.notes()));
    let on = section.require("on", "cpus = { count = 2, on = [0, 1] }").and_then(|item| hosts(item, section.notes()));
    section.no_more_keys();
    Some(Cpus::Shared { count: count?.value, on: on? })
}

fn count(count: u32) -> Result<u32, Rule> {
    if (1..=CPU_LIMIT).contains(&count) { Ok(count) } else { Err(Rule::OutOfRange { low: 1, high: CPU_LIMIT }) }
}

/// A list of host CPUs.
fn hosts(item: Item<'_>, notes: &mut Notes<'_>) -> Option<Vec<Placed<u32>>> {
    let (offset, thing) = (item.offset, item.thing.clone());
    let items = item.array(notes)?;
    if items.is_empty() {
        notes.problem(offset, &thing, Rule::NoCpu);
        return None;
    }
    // Each CPU is named once and has an index of 32 bits, but no VM has more virtual CPUs than APIC ids.
    if u32::try_from(items.len()).map_or(true, |count| count > CPU_LIMIT) {
        notes.problem(offset, &format!("{thing}, how many"), Rule::OutOfRange { low: 1, high: CPU_LIMIT });
        return None;
    }
    let all = items.len();
    let cpus: Vec<_> = items.into_iter().filter_map(|item| item.read(notes)).collect();
    (cpus.len() == all).then_some(cpus)
}

fn memory(text: String) -> Result<u64, Rule> {
    match Bytes::parse(&text) {
        Some(size) if size.is_whole() => Ok(size.0),
        Some(size) => Err(Rule::UnalignedSize(size)),
        None => Err(Rule::BadSize(text)),
    }
}

fn device(text: String) -> Result<Selector, Rule> {
    Selector::parse(&text).ok_or(Rule::BadDevice(text))
}

fn overrides(items: Vec<Item<'_>>, notes: &mut Notes<'_>) -> Vec<Override> {
    let mut allow = Vec::new();
    for item in items {
        let (offset, thing) = (item.offset, item.thing.clone());
        let word = item.value.as_str().map(String::from);
        let Some(rule) = item.read::<Override>(notes) else { continue };
        if allow.contains(&rule.value) {
            notes.problem(offset, &thing, Rule::WordTwice(word.unwrap_or_default()));
        } else {
            allow.push(rule.value);
        }
    }
    allow
}
