//! What differs between service meshes, as a table.

/// The constants of one mesh's sidecar.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mesh {
    /// Its name, for people.
    pub(crate) name: &'static str,
    /// The proxy's user.
    pub(crate) uid: u32,
    /// The proxy's group.
    pub(crate) gid: u32,
    /// Where the proxy takes the application's connections.
    pub(crate) outbound: u16,
    /// Where the proxy takes connections to the Pod.
    pub(crate) inbound: u16,
    /// Where the proxy answers DNS queries, if it is told to.
    pub(crate) dns: u16,
    /// Ports that the proxy itself serves, which are never intercepted.
    pub(crate) never_inbound: &'static [u16],
    /// Ports that are not intercepted unless the Pod names others.
    pub(crate) default_excluded_outbound: &'static [u16],
    /// Whether the proxy takes the application's connections on `127.0.0.1` alone.
    pub(crate) single_loopback: bool,
}

/// Istio: telemetry 15020, health 15021, Envoy's statistics 15090.
pub(crate) const ISTIO: Mesh = Mesh {
    name: "istio",
    uid: 1337,
    gid: 1337,
    outbound: 15001,
    inbound: 15006,
    dns: 15053,
    never_inbound: &[15020, 15021, 15090],
    default_excluded_outbound: &[15020],
    single_loopback: false,
};
