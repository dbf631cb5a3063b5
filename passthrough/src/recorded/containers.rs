//! The calls on containers.

use std::format;
use std::vec::Vec;

use iommu::address::{HostPhysical, Iova};
use serde_json::Value;

use super::machine::number;
use super::replay::{Handle, Replay, Step, int};
use crate::container::{Container, Mapping};
use crate::door::Access;
use crate::errno::Errno;
use crate::fake::FakeRemapping;
use crate::uapi;

impl Replay<'_> {
    pub(super) fn container(&mut self, step: &Value) -> Step {
        let Some(Handle::Container(container)) = self.handle(step, "on") else { return Step::LeftOut };
        let argsz = int(&step["argsz"]);
        let flags = int(&step["flags"]);
        let answer = match step["op"].as_str().unwrap() {
            "container.set_iommu" => container.set_type(int(&step["type"])).map(|()| 0).map_err(|error| error.errno()),
            "container.iommu_get_info" => return information(step, &container),
            "container.map_dma_loop" => return map_loop(step, &container),
            "container.map_dma" => {
                if argsz < uapi::DmaMap::SIZE as u64 || flags & !7 != 0 {
                    Err(Errno::EINVAL)
                } else if flags & 4 != 0 {
                    return if step["ret"] == 0 { Step::Stop } else { Step::LeftOut };
                } else {
                    let (iova, length) = (Iova::new(int(&step["iova"])), int(&step["size"]));
                    let access = Access { read: flags & 1 != 0, write: flags & 2 != 0 };
                    let host = HostPhysical::new(host(step["vaddr"].as_str().unwrap_or("0")));
                    container.map(Mapping { iova, host, length, access }).map(|()| 0).map_err(|error| error.errno())
                }
            }
            "container.unmap_dma" => {
                let (iova, length) = (Iova::new(int(&step["iova"])), int(&step["size"]));
                // Bitmaps and invalidation of addresses are not here; such a call counts if it unmaps all the same.
                if flags & 4 != 0 || (flags & 1 != 0 && step["ret"] != 0) {
                    return if step["ret"] == 0 { Step::Stop } else { Step::LeftOut };
                }
                let result = match flags {
                    _ if argsz < uapi::DmaUnmap::SIZE as u64 || flags & !7 != 0 => Err(Errno::EINVAL),
                    2 if container.has_type() && (iova.as_u64() | length) != 0 => Err(Errno::EINVAL),
                    2 => container.unmap_all().map_err(|error| error.errno()),
                    0 | 1 => container.unmap(iova, length).map_err(|error| error.errno()),
                    _ => Err(Errno::EINVAL),
                };
                match result {
                    Ok(bytes) if step.get("size_out").is_some() && bytes != int(&step["size_out"]) => {
                        return Step::Wrong(format!("{bytes:#x} bytes unmapped"));
                    }
                    other => other.map(|_| 0),
                }
            }
            _ => return Step::LeftOut,
        };
        Step::Answered(answer)
    }
}

/// Many mappings, each a stride further: how many succeed, and where and why the first one does not.
fn map_loop(step: &Value, container: &Container<FakeRemapping>) -> Step {
    let (iova, stride) = (int(&step["iova"]), int(&step["iova_stride"]));
    let (start, host_stride) = (host(step["vaddr"].as_str().unwrap()), int(&step["vaddr_stride"]));
    let flags = int(&step["flags"]);
    let access = Access { read: flags & 1 != 0, write: flags & 2 != 0 };
    if matches!(step["first_errno"].as_str(), Some("ENOMEM")) {
        return Step::Stop;
    }
    let mut done = 0;
    let mut first: Option<(u64, Errno)> = None;
    for number in 0..int(&step["count"]) {
        let mapping = Mapping {
            iova: Iova::new(iova + number * stride),
            host: HostPhysical::new(start + number * host_stride),
            length: int(&step["size"]),
            access,
        };
        match container.map(mapping) {
            Ok(()) => done += 1,
            Err(error) => first = first.or(Some((number, error.errno()))),
        }
    }
    let theirs = step["first_fail"].as_i64().filter(|at| *at >= 0).map(|at| at as u64);
    let same = done == int(&step["ok"])
        && first.map(|(at, _)| at) == theirs
        && first.is_none_or(|(_, errno)| format!("{errno:?}") == step["first_errno"].as_str().unwrap_or(""));
    if same { Step::Answered(Ok(0)) } else { Step::Wrong(format!("{done} mapped, first failure {first:?}")) }
}

/// `handle+0xoffset`, or a number: somewhere in host memory.
fn host(text: &str) -> u64 {
    match text.split_once('+') {
        Some((_, offset)) => 0x1_0000_0000 + number(offset),
        None if text.starts_with(|first: char| first.is_ascii_digit()) => number(text),
        None => 0x1_0000_0000,
    }
}

fn information(step: &Value, container: &Container<FakeRemapping>) -> Step {
    let info = match container.information() {
        Ok(_) if int(&step["argsz"]) < 16 => return Step::Answered(Err(Errno::EINVAL)),
        Ok(info) => info,
        Err(error) => return Step::Answered(Err(error.errno())),
    };
    for capability in step["caps"].as_array().into_iter().flatten() {
        match capability["id"].as_u64() {
            Some(1) => {
                let ranges: Vec<_> = capability["iova_ranges"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|range| int(&range[0])..=int(&range[1]))
                    .collect();
                if ranges != info.ranges {
                    return Step::Wrong(format!("{:?}", info.ranges));
                }
            }
            Some(3) if int(&capability["dma_avail"]) != u64::from(info.available) => {
                return Step::Wrong(format!("{} mappings left", info.available));
            }
            _ => {}
        }
    }
    match step.get("iova_pgsizes") {
        Some(sizes) if int(sizes) != info.page_sizes => Step::Wrong(format!("page sizes {:#x}", info.page_sizes)),
        _ => Step::Answered(Ok(0)),
    }
}
