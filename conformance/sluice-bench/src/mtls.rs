//! Mutual TLS between sidecars, as in a mesh: TLS 1.3, ECDSA, one authority. Sessions are resumed by tickets,
//! which is Envoy's default and Istio's.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, SanType,
};
use serde_json::{Value, json};

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
/// The form of Istio's identities.
const IDENTITY: &str = "spiffe://cluster.local/ns/demo/sa/default";

/// The certificates of all sidecars, in PEM.
pub(super) struct Mtls {
    authority: String,
    certificate: String,
    key: String,
}

impl Mtls {
    /// Makes an authority, and a certificate that it signs.
    pub(super) fn new() -> Result<Self> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate()?;
        let authority_pem = authority.self_signed(&authority_key)?.pem();
        let mut leaf = CertificateParams::new(Vec::new())?;
        // With the authority's name, which is the default, it would count as self-signed.
        leaf.distinguished_name = DistinguishedName::new();
        leaf.subject_alt_names = vec![SanType::URI(IDENTITY.try_into()?)];
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &Issuer::new(authority, authority_key))?;
        Ok(Self {
            authority: authority_pem,
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Of the sidecar that connects, which offers these protocols (ALPN).
    pub(super) fn client(&self, protocols: &[&str]) -> Value {
        json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": format!("{TYPE}.UpstreamTlsContext"),
                "common_tls_context": self.common(protocols),
                "sni": "server",
            },
        })
    }

    /// Of the sidecar that accepts, and chooses one of these protocols.
    pub(super) fn server(&self, protocols: &[&str]) -> Value {
        json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": format!("{TYPE}.DownstreamTlsContext"),
                "common_tls_context": self.common(protocols),
                "require_client_certificate": true,
            },
        })
    }

    fn common(&self, protocols: &[&str]) -> Value {
        json!({
            "alpn_protocols": protocols,
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "tls_certificates": [{
                "certificate_chain": { "inline_string": self.certificate },
                "private_key": { "inline_string": self.key },
            }],
            "validation_context": {
                "trusted_ca": { "inline_string": self.authority },
                "match_typed_subject_alt_names": [{
                    "san_type": "URI",
                    "matcher": { "exact": IDENTITY },
                }],
            },
        })
    }
}
