//! The Pods of the lab and the expected outcome of the calls between them.

use sluice_lab::{Caller, PodSpec};

use super::row::{APP, Case, End, Family, STATUS, Via};

/// The Pods.
pub(crate) const PODS: &[PodSpec] = &[
    meshed("alpha", true),
    meshed("beta", true),
    PodSpec {
        meshed: false,
        ..meshed("plain", false)
    },
    // Its application was quicker than its proxy.
    meshed("early", false),
    PodSpec {
        transparent: true,
        ..meshed("gamma", true)
    },
];

const fn meshed(name: &'static str, proxy: bool) -> PodSpec {
    PodSpec {
        name,
        meshed: true,
        proxy,
        transparent: false,
        ports: &[APP, STATUS],
    }
}

const ALPHA: Caller = Caller::Application("alpha");
const BOTH: &[Via] = &[Via::Outbound("alpha"), Via::Inbound("beta")];
const THROUGH_BOTH: &[(&str, u64)] = &[
    ("outbound_to_proxy", 1),
    ("outbound_by_proxy", 1),
    ("inbound_to_proxy", 1),
    ("outbound_passthrough", 1),
];
const OUT_ONLY: &[(&str, u64)] = &[("outbound_to_proxy", 1), ("outbound_by_proxy", 1)];
const IN_ONLY: &[(&str, u64)] = &[("inbound_to_proxy", 1), ("outbound_passthrough", 1)];

/// A call from alpha's application to beta's, unless a row says otherwise.
const BASE: Case = Case {
    name: "",
    caller: ALPHA,
    to: "beta",
    port: APP,
    family: Family::V4,
    via: BOTH,
    end: End::SeenAsProxy,
    reasons: THROUGH_BOTH,
};

/// A call that reaches the application without a proxy.
const DIRECT: Case = Case {
    via: &[],
    end: End::SeenAsClient,
    reasons: &[],
    ..BASE
};

/// Every behaviour, in the order of the report.
pub(crate) const CASES: &[Case] = &[
    through_both("meshed → meshed, IPv4", Family::V4),
    through_both("meshed → meshed, IPv6", Family::V6),
    through_both("meshed → meshed, IPv4 from an IPv6 socket", Family::Mapped),
    to_plain("meshed → not meshed, IPv4", Family::V4),
    to_plain("meshed → not meshed, IPv6", Family::V6),
    to_plain(
        "meshed → not meshed, IPv4 from an IPv6 socket",
        Family::Mapped,
    ),
    from_outside(
        "not meshed → meshed, IPv4",
        Caller::Application("plain"),
        Family::V4,
    ),
    from_outside(
        "not meshed → meshed, IPv6",
        Caller::Application("plain"),
        Family::V6,
    ),
    from_outside("node → meshed, IPv4", Caller::Node, Family::V4),
    from_outside("node → meshed, IPv6", Caller::Node, Family::V6),
    own_by_app("own Pod IP, by the application, IPv4", Family::V4),
    own_by_app("own Pod IP, by the application, IPv6", Family::V6),
    own_by_proxy("own Pod IP, by the proxy, IPv4", Family::V4),
    own_by_proxy("own Pod IP, by the proxy, IPv6", Family::V6),
    status_port("node → status port, IPv4", Family::V4),
    status_port("node → status port, IPv6", Family::V6),
    into_early("node → meshed, proxy not up, IPv4", Family::V4),
    into_early("node → meshed, proxy not up, IPv6", Family::V6),
    out_of_early("meshed, proxy not up → not meshed, IPv4", Family::V4),
    out_of_early("meshed, proxy not up → not meshed, IPv6", Family::V6),
    keeps_source("not meshed → TPROXY with original_src, IPv4", Family::V4),
    keeps_source("not meshed → TPROXY with original_src, IPv6", Family::V6),
    keeps_source(
        "not meshed → TPROXY with original_src, IPv4 from an IPv6 socket",
        Family::Mapped,
    ),
    through_both_keeping("meshed → TPROXY with original_src, IPv4", Family::V4),
    through_both_keeping("meshed → TPROXY with original_src, IPv6", Family::V6),
    Case {
        name: "node → not meshed, IPv4",
        caller: Caller::Node,
        to: "plain",
        ..DIRECT
    },
];

const fn through_both(name: &'static str, family: Family) -> Case {
    Case {
        name,
        family,
        ..BASE
    }
}

const fn to_plain(name: &'static str, family: Family) -> Case {
    let via = &[Via::Outbound("alpha")];
    Case {
        name,
        family,
        to: "plain",
        via,
        end: End::SeenAsClient,
        reasons: OUT_ONLY,
        ..BASE
    }
}

const fn from_outside(name: &'static str, caller: Caller, family: Family) -> Case {
    Case {
        name,
        caller,
        family,
        via: &[Via::Inbound("beta")],
        reasons: IN_ONLY,
        ..BASE
    }
}

const fn own_by_app(name: &'static str, family: Family) -> Case {
    Case {
        name,
        family,
        to: "alpha",
        reasons: &[("outbound_local", 1)],
        ..DIRECT
    }
}

const fn own_by_proxy(name: &'static str, family: Family) -> Case {
    let reasons = &[("outbound_hairpin", 1), ("outbound_passthrough", 1)];
    let via = &[Via::Inbound("alpha")];
    Case {
        name,
        family,
        caller: Caller::Proxy("alpha"),
        to: "alpha",
        via,
        reasons,
        ..BASE
    }
}

const fn status_port(name: &'static str, family: Family) -> Case {
    let reasons = &[("inbound_port_excluded", 1)];
    Case {
        name,
        family,
        caller: Caller::Node,
        port: STATUS,
        reasons,
        ..DIRECT
    }
}

const fn into_early(name: &'static str, family: Family) -> Case {
    let reasons = &[("inbound_no_proxy", 1)];
    let (caller, end) = (Caller::Node, End::Refused);
    Case {
        name,
        family,
        caller,
        to: "early",
        end,
        reasons,
        ..DIRECT
    }
}

const fn out_of_early(name: &'static str, family: Family) -> Case {
    let reasons = &[("outbound_to_proxy", 1)];
    let caller = Caller::Application("early");
    Case {
        name,
        family,
        caller,
        to: "plain",
        end: End::Refused,
        reasons,
        ..DIRECT
    }
}

/// The application sees the client, although its proxy opened the connection.
const fn keeps_source(name: &'static str, family: Family) -> Case {
    Case {
        name,
        family,
        caller: Caller::Application("plain"),
        to: "gamma",
        via: &[Via::Inbound("gamma")],
        end: End::SeenAsClient,
        reasons: &[("inbound_to_proxy", 1), ("outbound_original_source", 1)],
        ..BASE
    }
}

const fn through_both_keeping(name: &'static str, family: Family) -> Case {
    Case {
        name,
        family,
        to: "gamma",
        via: &[Via::Outbound("alpha"), Via::Inbound("gamma")],
        end: End::SeenAsClient,
        reasons: &[
            ("outbound_to_proxy", 1),
            ("outbound_by_proxy", 1),
            ("inbound_to_proxy", 1),
            ("outbound_original_source", 1),
        ],
        ..BASE
    }
}
