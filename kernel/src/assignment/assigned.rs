//! The functions of one VM: its container, its groups, its devices; taken at build, given back at the VM's end.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use iommu::address::{Iova, PciAddress};
use log::{info, warn};
use passthrough::container::{Container, ContainerError, Mapping, Policy};
use passthrough::device::{Device, DeviceError, Parts};
use passthrough::door::{Access, Machine, Owner, RemappingError};
use passthrough::group::{Group, GroupError, Registry};
use passthrough::reset::BusReset;
use passthrough::topology::GroupId;

use super::{
    AssignedFunction, Assignments, Complaints, Conflict, DmaWindows, Doors, Doubt, FunctionSpace, FunctionWindows,
    Kept, Liberties, Remapping,
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
    /// What its devices may do beyond what is safe.
    pub liberties: Liberties,
    /// What it may still cause of log, with all that it has and had.
    pub complaints: Complaints,
}

/// What one VM holds. Dropping it gives everything back, in this order: devices (interrupts, bus mastering, reset),
/// then groups (context entries), then the container (mappings, domain), then its hold on the RAM.
#[derive(Debug)]
pub struct Assigned<M: Machine = Doors> {
    functions: Vec<Arc<AssignedFunction<M>>>,
    groups: Vec<Group<M::Remapping>>,
    container: Option<Container<M::Remapping>>,
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
        if functions.is_empty() {
            return Ok(Self::nothing(recipient, Doubt::default()));
        }
        let remapping = assignments
            .remapping()
            .map_err(|reason| AssignError::NoRemapping { reason: reason.to_string() })?
            .for_a_run(recipient.complaints.clone(), recipient.liberties);
        if recipient.liberties.unsafe_interrupts {
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
        let doubt = remapping.doubt().clone();
        Self::take(&MachineSupply { assignments, remapping }, recipient, functions, doubt)
    }
}

impl<M: Machine<Configuration: Clone>> Assigned<M> {
    fn nothing(recipient: &Recipient, doubt: Doubt) -> Self {
        Self {
            functions: Vec::new(),
            groups: Vec::new(),
            container: None,
            memory: Kept::new(recipient.memory.clone(), recipient.owner.clone(), doubt),
        }
    }

    /// Takes these functions from `supply`, whose remapping raises `doubt`.
    fn take<S: Supply<Machine = M>>(
        supply: &S,
        recipient: &Recipient,
        functions: &[PciAddress],
        doubt: Doubt,
    ) -> Result<Self, AssignError> {
        let mut assigned = Self::nothing(recipient, doubt);
        let policy = Policy { unsafe_interrupts: recipient.liberties.unsafe_interrupts, ..Policy::default() };
        let container = Container::new(supply.remapping().clone(), recipient.owner.clone(), policy);
        for &function in functions {
            assigned.join(supply, recipient, &container, function)?;
        }
        for &function in functions {
            supply.forgive(function);
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
            let opened = assigned.device(supply, recipient, function)?;
            assigned.functions.push(Arc::new(opened));
        }
        Ok(assigned)
    }

    /// The functions, in the configuration's order.
    pub fn functions(&self) -> &[Arc<AssignedFunction<M>>] {
        &self.functions
    }

    /// Further addresses at which these functions may come to reach the VM's RAM, whose blocks these are; `None` without
    /// functions. Dropped before `self` is closed.
    pub fn dma_windows(&self, blocks: &[GuestBlock]) -> Option<DmaWindows<M::Remapping>> {
        self.container.as_ref().map(|container| DmaWindows::new(container.clone(), blocks))
    }

    /// The container's mapping at or nearest to an address, for fault reports.
    pub fn nearest_mapping(&self, iova: Iova) -> Option<Mapping> {
        self.container.as_ref()?.nearest_mapping(iova)
    }

    /// The group of `function` joins the container, if it has not yet.
    fn join(
        &mut self,
        supply: &impl Supply<Machine = M>,
        recipient: &Recipient,
        container: &Container<M::Remapping>,
        function: PciAddress,
    ) -> Result<(), AssignError> {
        let refused = |source| AssignError::Group { function, source };
        let registry = supply.registry();
        let id = registry.groups().of(function).ok_or(refused(GroupError::NoFunction(function)))?.id;
        if self.groups.iter().any(|group| group.id() == id) {
            return Ok(());
        }
        let group = Group::open(registry, id, &recipient.owner).map_err(refused)?;
        group.set_container(container).map_err(refused)?;
        self.groups.push(group);
        Ok(())
    }

    fn device(
        &self,
        supply: &impl Supply<Machine = M>,
        recipient: &Recipient,
        address: PciAddress,
    ) -> Result<AssignedFunction<M>, AssignError> {
        let missing = || AssignError::Group { function: address, source: GroupError::NoFunction(address) };
        let id: GroupId = supply.registry().groups().of(address).ok_or_else(missing)?.id;
        let group = self.groups.iter().find(|group| group.id() == id).ok_or_else(missing)?;
        let function = supply.function(address).ok_or_else(missing)?;
        let parts = supply.parts(function)?;
        let space = parts.configuration.clone();
        let device = Device::<M>::open(group, address, parts)
            .map_err(|source| AssignError::Device { function: address, source })?;
        let method =
            device.reset_method().map_or("cannot be reset".to_string(), |method| alloc::format!("reset by {method}"));
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

/// Where an assignment takes its functions from.
trait Supply {
    /// What a device object reaches.
    type Machine: Machine;

    /// Who holds what.
    fn registry(&self) -> &Registry;

    /// The remapping hardware, for this run of the VM.
    fn remapping(&self) -> &<Self::Machine as Machine>::Remapping;

    /// One function of the machine.
    fn function(&self, address: PciAddress) -> Option<&pci::Function>;

    /// The function's doors, or what stands against opening them.
    fn parts(&self, function: &pci::Function) -> Result<Parts<Self::Machine>, AssignError>;

    /// Ends what a function earned itself in an earlier run.
    fn forgive(&self, function: PciAddress);
}

/// This machine.
struct MachineSupply<'a> {
    assignments: &'a Assignments,
    remapping: Remapping,
}

impl Supply for MachineSupply<'_> {
    type Machine = Doors;

    fn registry(&self) -> &Registry {
        self.assignments.registry()
    }

    fn remapping(&self) -> &Remapping {
        &self.remapping
    }

    fn function(&self, address: PciAddress) -> Option<&pci::Function> {
        self.assignments.function(address)
    }

    fn parts(&self, function: &pci::Function) -> Result<Parts<Doors>, AssignError> {
        let address = function.address;
        if let Some(source) = self.assignments.conflict(function) {
            return Err(AssignError::Addresses { function: address, source });
        }
        let windows = FunctionWindows::map(function, memory::map_mmio)
            .map_err(|source| AssignError::Registers { function: address, source })?;
        if let Some(senders) = self.remapping.signature(address).senders() {
            info!("{address}: its interrupt entries take messages of {senders}, as it signs with several ids");
        }
        Ok(Parts {
            configuration: FunctionSpace::new(self.assignments.configuration().clone(), address),
            windows,
            clock: Clock,
            bus: bus_reset(self.assignments, function),
            line: false,
        })
    }

    fn forgive(&self, function: PciAddress) {
        for signer in self.remapping.signature(function).ids() {
            end_quarantine(&self.remapping, signer);
        }
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
    let space = |address| FunctionSpace::new(assignments.configuration().clone(), address);
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

#[cfg(test)]
#[path = "assigned_tests.rs"]
mod tests;
