//! INVD and WBINVD. Both write the caches back: thrown away without that, they would take other guests' memory with
//! them.

use super::body::{Body, Trouble};
use super::engine::VcpuEngine;
use super::fetch::Opcode;
use super::platform::Platform;

impl<E: VcpuEngine> Body<E> {
    pub(super) fn handle_cache_invalidate(&mut self, platform: &dyn Platform) -> Result<(), Trouble> {
        let next = self.next_instruction(Opcode::CACHE_INVALIDATE, platform)?;
        #[cfg(target_os = "none")]
        // SAFETY: WBINVD changes no memory content.
        unsafe {
            core::arch::asm!("wbinvd", options(nostack, preserves_flags));
        }
        self.go_on_at(next);
        Ok(())
    }
}
