//! SET_IRQS, from the bytes of a process to the device.

use std::vec::Vec;

use serde_json::Value;

use super::replay::{Handle, Replay, Step, int};
use crate::device::Device;
use crate::door::Event;
use crate::errno::Errno;
use crate::fake::{FakeMachine, UNKNOWN};
use crate::interrupt::{IrqData, IrqSet};
use crate::uapi::{self, DataKind, IrqSetHeader};

impl Replay<'_> {
    pub(super) fn set_irqs(&self, step: &Value, device: &mut Device<FakeMachine>) -> Step {
        let field = |name: &str| int(&step[name]) as u32;
        let head = uapi::IrqSet {
            argsz: step["argsz"].as_u64().unwrap() as u32,
            flags: field("flags"),
            index: field("index"),
            start: field("start"),
            count: field("count"),
        };
        let of = |index| device.irq_info(index).ok().map(|info| info.count);
        let head = match IrqSetHeader::check(&head, of) {
            Ok(head) => head,
            Err(errno) => return Step::Answered(Err(errno)),
        };
        let count = head.count as usize;
        let elements = |key: &str| step[key].as_array().cloned().unwrap_or_default();
        let flags: Vec<u8> = elements("data_bool").iter().map(|flag| flag.as_u64().unwrap() as u8).collect();
        let mut events: Vec<Option<Event>> = elements("data_fds").iter().map(|fd| self.event(fd)).collect();
        // What the recording does not show of a long call is zero: descriptor 0 is no event.
        events.resize(count, Some(UNKNOWN));
        let mut flags = flags;
        flags.resize(count, 0);
        let is_unknown = head.data == DataKind::Event && events.contains(&Some(UNKNOWN));
        let is_low = elements("data_fds").iter().any(|fd| fd.as_i64().is_some_and(|fd| fd < -1));
        // Descriptors that no hardware is asked about are the front end's to check.
        let is_software = matches!(head.index, 3 | 4) || head.action.bits() & 0x18 != 0;
        if is_software && head.data == DataKind::Event && (is_unknown || is_low) {
            return Step::LeftOut;
        }
        let data = match head.data {
            DataKind::None => IrqData::None,
            DataKind::Bool => IrqData::Bool(&flags),
            DataKind::Event => IrqData::Events(&events),
        };
        let (index, start, count, action) = (head.index, head.start, head.count, head.action);
        let answer = device.set_irqs(IrqSet { index, start, count, action, data });
        let answer = answer.map(|()| 0).map_err(|error| error.errno());
        // A descriptor that exists and is no event is EINVAL, one that does not exist EBADF; here both are unknown.
        if answer == Err(Errno::EBADF) && is_unknown && step["errno"] == "EINVAL" {
            return Step::Answered(Err(Errno::EINVAL));
        }
        Step::Answered(answer)
    }

    fn event(&self, descriptor: &Value) -> Option<Event> {
        if let Some(number) = descriptor.as_i64() {
            return (number >= 0).then_some(UNKNOWN);
        }
        match self.handles.get(descriptor.as_str().unwrap()) {
            Some(Handle::Event(id)) => Some(Event(*id)),
            _ => Some(UNKNOWN),
        }
    }
}
