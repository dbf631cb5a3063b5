//! What a mapping allows, and how its memory is cached.

use core::fmt;

bitflags::bitflags! {
    /// What the holder of a mapping may do with the memory behind it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Permissions: u8 {
        /// Reads.
        const READ = 1;
        /// Writes.
        const WRITE = 2;
        /// Instruction fetches by a processor. Device formats have no bit for it and drop it.
        const EXECUTE = 4;
    }
}

impl Permissions {
    /// Reads and writes: a device's buffer.
    pub const READ_WRITE: Self = Self::READ.union(Self::WRITE);
    /// Everything: a guest's RAM, for its processor.
    pub const ALL: Self = Self::READ_WRITE.union(Self::EXECUTE);
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, letter) in [(Self::READ, "r"), (Self::WRITE, "w"), (Self::EXECUTE, "x")] {
            f.write_str(if self.contains(flag) { letter } else { "-" })?;
        }
        Ok(())
    }
}

/// How processors cache the memory behind a mapping. Device formats have no bits for it in legacy mode and drop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryType {
    /// Ordinary RAM.
    WriteBack,
    /// Registers of a device. A guest may weaken it to write-combining through its own PAT.
    Uncached,
}

/// All that a leaf says beside its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// What is allowed.
    pub permissions: Permissions,
    /// How it is cached.
    pub memory_type: MemoryType,
}

impl Attributes {
    /// RAM with these permissions.
    pub const fn ram(permissions: Permissions) -> Self {
        Self { permissions, memory_type: MemoryType::WriteBack }
    }

    /// Device registers with these permissions.
    pub const fn registers(permissions: Permissions) -> Self {
        Self { permissions, memory_type: MemoryType::Uncached }
    }
}

/// Permissions alone mean RAM.
impl From<Permissions> for Attributes {
    fn from(permissions: Permissions) -> Self {
        Self::ram(permissions)
    }
}
