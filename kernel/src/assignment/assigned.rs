//! The functions of one VM: its container, its groups, its devices; taken at build, given back at the VM's end.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu::address::{Iova, PciAddress};
use log::{info, warn};
use passthrough::container::{Container, ContainerError, Mapping, Policy};
use passthrough::device::{Device, DeviceError, Parts};
use passthrough::door::{Access, Owner, RemappingError};
use passthrough::group::{Group, GroupError};
use passthrough::reset::BusReset;
use passthrough::topology::GroupId;

use super::{
    AssignedFunction, Assignments, Complaints, Conflict, DmaWindows, Doors, Doubt, FunctionSpace, FunctionWindows,
    Kept, Remapping,
};
use crate::cpu::clock::Clock;
use crate::memory::{self, GuestBlock, GuestMemory, MapMmioError};
use crate::platform::pci;
use crate::vapic::ApicBus;

/// VFIO's number of the IOMMU type that every container here has: type1 v2, which unmaps whole mappings alone.
const TYPE1_V2: u64 = 3;

/// For whom functions are taken, and into what they go.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// The VM.
    pub owner: Owner,
    /// Its RAM.
    pub memory: Arc<GuestMemory>,
    /// Its interrupt bus.
    pub bus: Arc<ApicBus>,
    /// `allow = ["unsafe-interrupts"]`.
    pub unsafe_interrupts: bool,
    /// What it may still cause of log, with all that it has and had.
    pub complaints: Complaints,
}

/// What one VM holds. Dropping it gives everything back, in this order: devices (interrupts, bus mastering, reset),
/// then groups (context entries), then the container (mappings, domain), then its hold on the RAM.
#[derive(Debug)]
pub struct Assigned {
    functions: Vec<Arc<AssignedFunction>>,
    groups: Vec<Group<Remapping>>,
    container: Option<Container<Remapping>>,
    /// Last: as long as an entry or a cache may still lead a device there, the RAM is nobody else's.
    memory: Kept<Arc<GuestMemory>>,
}

impl Assigned {
    /// Takes these functions, all claimed for the VM before, and lets them reach its RAM.
    ///
    /// # Errors
    ///
    /// What stands against it. Everything that was taken is given back.
    pub fn open(
        assignments: &Assignments,
        recipient: &Recipient,
        functions: &[PciAddress],
    ) -> Result<Self, AssignError> {
        let hold = |doubt| Self {
            functions: Vec::new(),
            groups: Vec::new(),
            container: None,
            memory: Kept::new(recipient.memory.clone(), recipient.owner.clone(), doubt),
        };
        if functions.is_empty() {
            return Ok(hold(Doubt::default()));
        }
        let remapping = assignments
            .remapping()
            .map_err(|reason| AssignError::NoRemapping { reason: reason.to_string() })?
            .for_a_run(recipient.complaints.clone(), recipient.unsafe_interrupts);
        let mut assigned = hold(remapping.doubt().clone());
        if recipient.unsafe_interrupts {
            let owner = &recipient.owner;
            if remapping.remaps_interrupts() {
                info!("{owner}: unsafe-interrupts is allowed and not needed: interrupts are remapped");
            } else {
                warn!(
                    "{owner}: unsafe-interrupts is allowed: nothing remaps the interrupts of its devices, and whoever \
                     controls it can forge any interrupt of the machine"
                );
            }
        }
        let policy = Policy { unsafe_interrupts: recipient.unsafe_interrupts, ..Policy::default() };
        let container = Container::new(remapping.clone(), recipient.owner.clone(), policy);
        for &function in functions {
            assigned.join(assignments, recipient, &container, function)?;
        }
        for &function in functions {
            for signer in remapping.signature(function).ids() {
                end_quarantine(&remapping, signer);
            }
        }
        container.set_type(TYPE1_V2).map_err(AssignError::Container)?;
        for block in recipient.memory.blocks() {
            let access = match block.access {
                memory::Access::ReadWrite => Access::READ_WRITE,
                memory::Access::ReadOnly => Access::READ,
            };
            let iova = Iova::new(block.guest.as_u64());
            let mapping = Mapping { iova, host: block.host, length: block.length, access };
            container.map(mapping).map_err(AssignError::Container)?;
        }
        assigned.container = Some(container);
        for &function in functions {
            let opened = assigned.device(assignments, recipient, function)?;
            assigned.functions.push(Arc::new(opened));
        }
        Ok(assigned)
    }

    /// The functions, in the configuration's order.
    pub fn functions(&self) -> &[Arc<AssignedFunction>] {
        &self.functions
    }

    /// Further addresses at which these functions may come to reach the VM's RAM, whose blocks these are; `None` without
    /// functions. Dropped before `self` is closed.
    pub fn dma_windows(&self, blocks: &[GuestBlock]) -> Option<DmaWindows<Remapping>> {
        self.container.as_ref().map(|container| DmaWindows::new(container.clone(), blocks))
    }

    /// The container's mapping at or nearest to an address, for fault reports.
    pub fn nearest_mapping(&self, iova: Iova) -> Option<Mapping> {
        self.container.as_ref()?.nearest_mapping(iova)
    }

    /// The group of `function` joins the container, if it has not yet.
    fn join(
        &mut self,
        assignments: &Assignments,
        recipient: &Recipient,
        container: &Container<Remapping>,
        function: PciAddress,
    ) -> Result<(), AssignError> {
        let refused = |source| AssignError::Group { function, source };
        let id = assignments.group_of(function).ok_or(refused(GroupError::NoFunction(function)))?;
        if self.groups.iter().any(|group| group.id() == id) {
            return Ok(());
        }
        let group = Group::open(assignments.registry(), id, &recipient.owner).map_err(refused)?;
        group.set_container(container).map_err(refused)?;
        self.groups.push(group);
        Ok(())
    }

    fn device(
        &self,
        assignments: &Assignments,
        recipient: &Recipient,
        address: PciAddress,
    ) -> Result<AssignedFunction, AssignError> {
        let refused = |source| AssignError::Group { function: address, source };
        let missing = || refused(GroupError::NoFunction(address));
        let id: GroupId = assignments.group_of(address).ok_or_else(missing)?;
        let group = self.groups.iter().find(|group| group.id() == id).ok_or_else(missing)?;
        let function = assignments.function(address).ok_or_else(missing)?;
        if let Some(source) = assignments.conflict(function) {
            return Err(AssignError::Addresses { function: address, source });
        }
        let windows = FunctionWindows::map(function, memory::map_mmio)
            .map_err(|source| AssignError::Registers { function: address, source })?;
        let space = FunctionSpace::new(assignments.ecam().clone(), address);
        let parts = Parts {
            configuration: space.clone(),
            windows,
            clock: Clock,
            bus: bus_reset(assignments, function),
            line: false,
        };
        let device = Device::<Doors>::open(group, address, parts)
            .map_err(|source| AssignError::Device { function: address, source })?;
        let method =
            device.reset_method().map_or("cannot be reset".to_string(), |method| alloc::format!("reset by {method}"));
        if let Some(senders) = assignments.remapping().ok().and_then(|remapping| remapping.signature(address).senders())
        {
            info!("{address}: its interrupt entries take messages of {senders}, as it signs with several ids");
        }
        info!("{address} of {id} is {}'s: {method}, reaches its RAM and nothing else", recipient.owner);
        Ok(AssignedFunction::new(function, space, device, recipient))
    }

    /// Gives everything back. Errors of single devices are said; the rest is given back all the same.
    pub fn close(self) {
        let Self { functions, groups, container, memory } = self;
        for function in functions {
            let address = function.address();
            match Arc::try_unwrap(function) {
                Ok(function) => match (function.has_reset(), function.close()) {
                    (true, Ok(())) => info!("{address} is given back: silent, reset, blocked"),
                    (false, Ok(())) => {
                        info!(
                            "{address} is given back: silent, blocked, in the state that the VM left it in: it has no reset"
                        );
                    }
                    (_, Err(error)) => warn!("{address} is given back silent and blocked, but {error}"),
                },
                // Its drop closes it, when whoever still holds it lets go.
                Err(_) => warn!("{address} is still on a virtual bus; it is given back with that"),
            }
        }
        drop(groups);
        drop(container);
        drop(memory);
    }
}

/// A quarantine ends with the run of the VM that earned it: the function was silenced and, where it can be, reset since.
fn end_quarantine(remapping: &Remapping, function: PciAddress) {
    if !remapping.driver().is_silenced(function) {
        return;
    }
    match remapping.driver().release_device(function) {
        Ok(()) => info!("{function} was quarantined in its last run; it may send requests again"),
        Err(error) => warn!("{function} stays quarantined: {error}"),
    }
}

/// What a reset of the function's bus takes: the bridge above it, and everybody else below that bridge.
fn bus_reset(assignments: &Assignments, function: &pci::Function) -> Option<BusReset<FunctionSpace>> {
    let bridge = assignments.function(function.parent?)?;
    let buses = bridge.bridge?;
    let space = |address| FunctionSpace::new(assignments.ecam().clone(), address);
    let others = assignments.functions().iter().map(|other| other.address).filter(|other| {
        other.segment == function.address.segment
            && (buses.secondary..=buses.subordinate).contains(&other.source.bus())
            && *other != function.address
    });
    Some(BusReset {
        bridge: space(bridge.address),
        is_express: function.express.is_some(),
        others: others.map(|other| (other, space(other))).collect(),
    })
}

/// Why a VM does not get its functions.
#[derive(Clone, Debug)]
pub enum AssignError {
    /// There is no DMA remapping to isolate them with.
    NoRemapping {
        /// Why not.
        reason: String,
    },
    /// A group refused.
    Group {
        /// The function that was asked for.
        function: PciAddress,
        /// The reason.
        source: GroupError,
    },
    /// The container refused.
    Container(ContainerError),
    /// A function's registers cannot be mapped.
    Registers {
        /// The function.
        function: PciAddress,
        /// The reason.
        source: MapMmioError,
    },
    /// A function's registers are not its own alone.
    Addresses {
        /// The function.
        function: PciAddress,
        /// Which, and who else is there.
        source: Conflict,
    },
    /// A function cannot be opened.
    Device {
        /// The function.
        function: PciAddress,
        /// The reason.
        source: DeviceError,
    },
}

impl fmt::Display for AssignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRemapping { reason } => write!(
                f,
                "no device can be assigned, since {reason}; switch VT-d on in the firmware's setup, or take the devices \
                 out of the configuration"
            ),
            Self::Group { function, source } => write!(f, "{function} cannot be assigned: {source}"),
            Self::Container(ContainerError::Remapping { function: None, source: RemappingError::OutOfMemory }) => {
                f.write_str("the VM's DMA tables found no memory; give the VM less")
            }
            Self::Container(source) => source.fmt(f),
            Self::Registers { function, source } => write!(f, "{function} cannot be assigned: {source}"),
            Self::Addresses { function, source } => write!(f, "{function} cannot be assigned: {source}"),
            Self::Device { function, source } => write!(f, "{function} cannot be assigned: {source}"),
        }
    }
}

impl core::error::Error for AssignError {}
