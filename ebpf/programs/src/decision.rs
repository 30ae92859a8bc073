//! A verdict whose content the verifier does not know.

use sluice_abi::{PodCounter, Port, Reason, decide::Verdict, opaque};

/// A verdict as one opaque number. The verifier explores the rest of the program once, and not once for each
/// verdict that the rules can return.
#[derive(Clone, Copy)]
pub(crate) struct Decision(u64);

impl Decision {
    /// Bits 0 to 31 are the reason, bits 32 to 47 the port in network byte order.
    const PORT_SHIFT: u32 = 32;
    const TO_PROXY: u64 = 1 << 48;
    const REFUSED: u64 = 1 << 49;

    /// `unknown`: see [`opaque::zero`].
    #[inline(always)]
    pub(crate) fn new(verdict: Verdict, unknown: u64) -> Self {
        let bits = match verdict {
            Verdict::Direct(reason) => reason as u64,
            Verdict::ToProxy(port, reason) => {
                Self::TO_PROXY | u64::from(port.to_be()) << Self::PORT_SHIFT | reason as u64
            }
            Verdict::Refused(reason) => Self::REFUSED | reason as u64,
        };
        Self(opaque::zero(unknown) ^ bits)
    }

    /// The proxy's port, if the connection is redirected.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a port has 16 bits")]
    pub(crate) fn proxy_port(self) -> Option<Port> {
        let port = Port::from_be((self.0 >> Self::PORT_SHIFT) as u16);
        (self.0 & Self::TO_PROXY != 0).then_some(port)
    }

    /// Whether the system call fails.
    #[inline(always)]
    pub(crate) fn is_refused(self) -> bool {
        self.0 & Self::REFUSED != 0
    }

    /// The number of the rule that matched.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a reason has 32 bits")]
    pub(crate) fn reason(self) -> u32 {
        self.0 as u32
    }

    /// Whether this rule matched.
    #[inline(always)]
    pub(crate) fn is_by(self, reason: Reason) -> bool {
        self.reason() == reason as u32
    }

    /// The Pod's counter for it.
    #[inline(always)]
    pub(crate) fn counter(self) -> PodCounter {
        if self.proxy_port().is_some() {
            PodCounter::OutboundToProxy
        } else if self.is_refused() {
            PodCounter::Refused
        } else {
            PodCounter::OutboundDirect
        }
    }
}
