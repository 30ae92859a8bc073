//! Comparing the kernel's state with what it should be (CNI's CHECK).

use std::net::IpAddr;

use daemon_api::Attachment;

use super::{Owner, Standing};
use crate::pods::Error;

impl Owner {
    /// Names the first difference.
    pub(in crate::pods) fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        let unknown = || Error::Unknown(attachment.clone());
        let known = self.attachments.get(attachment).ok_or_else(unknown)?;
        let Standing::Meshed { cookie, .. } = known.standing else {
            return Ok(());
        };
        let enrolled = self.pods.get(&cookie).ok_or_else(unknown)?;
        let held = enrolled.kernel.held();
        same("network namespace in place", &true, &enrolled.is_alive())?;
        same("process_ip", &held.process, &self.datapath.process(cookie)?)?;
        for (addr, pod) in &held.addresses {
            let present = self.datapath.address(*addr)?;
            let what = format!("local_pod_ips at {}", IpAddr::from(*addr));
            same(&what, &Some(*pod), &present)?;
        }
        let steered = self.datapath.is_steered(cookie);
        same("inbound hook attached", &true, &steered)
    }
}

fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &T,
    present: &T,
) -> Result<(), Error> {
    if expected == present {
        return Ok(());
    }
    Err(Error::Differs {
        what: what.to_owned(),
        expected: format!("{expected:?}"),
        present: format!("{present:?}"),
    })
}
