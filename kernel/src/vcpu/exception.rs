//! What happens when an exception comes while another is being delivered (SDM volume 3 section 7.15, APM volume 2
//! section 8.2.9).

use super::state::Exception;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

const fn class(vector: u8) -> Class {
    match vector {
        0 | 10..=13 => Class::Contributory,
        14 => Class::PageFault,
        8 => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What is delivered when `second` comes up during the delivery of `first`; `None`: the processor shuts down.
pub(super) fn combine(first: Exception, second: Exception) -> Option<Exception> {
    match (class(first.vector), class(second.vector)) {
        (Class::DoubleFault, Class::Contributory | Class::PageFault) => None,
        (Class::Contributory, Class::Contributory) | (Class::PageFault, Class::Contributory | Class::PageFault) => {
            Some(Exception::DOUBLE_FAULT)
        }
        _ => Some(second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manuals_table() {
        let page = Exception::page_fault(0);
        let general = Exception::GENERAL_PROTECTION;
        assert_eq!(combine(general, general), Some(Exception::DOUBLE_FAULT));
        assert_eq!(combine(general, page), Some(page));
        assert_eq!(combine(page, general), Some(Exception::DOUBLE_FAULT));
        assert_eq!(combine(page, page), Some(Exception::DOUBLE_FAULT));
        assert_eq!(combine(Exception::DOUBLE_FAULT, page), None);
        assert_eq!(combine(Exception::DOUBLE_FAULT, Exception::DEBUG), Some(Exception::DEBUG));
        assert_eq!(combine(Exception::DEBUG, general), Some(general));
    }
}
