//! An EndpointSlice as somebody wrote it → as it is stored.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::endpoints::namespace_of;
use super::name::Label;
use super::refusal::Refusal;
use super::service_check::check_metadata;

/// The slice with its defaults.
///
/// # Errors
/// The first field that the API server would have refused.
pub fn settle(
    mut slice: EndpointSlice,
    before: Option<&EndpointSlice>,
    now: &Time,
) -> Result<EndpointSlice, Refusal> {
    let name = slice.metadata.name.as_deref().unwrap_or_default();
    if name.len() > 253 || !name.split('.').all(|label| Label::new(label).is_ok()) {
        let expected = "a DNS name: a-z, 0-9, - and .";
        return Err(Refusal::new("metadata.name", format!("{name:?}"), expected));
    }
    check_metadata(&slice.metadata)?;
    if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6" | "FQDN") {
        let what = format!("{:?}", slice.address_type);
        return Err(Refusal::new("addressType", what, "IPv4, IPv6 or FQDN"));
    }
    check_endpoints(&slice)?;
    for (index, port) in slice.ports.iter_mut().flatten().enumerate() {
        let field = |name: &str| format!("ports[{index}].{name}");
        if let Some(number @ (..1 | 65_536..)) = port.port {
            return Err(Refusal::new(field("port"), number.to_string(), "1 to 65535"));
        }
        let protocol = port.protocol.get_or_insert_with(|| "TCP".into());
        if !matches!(protocol.as_str(), "TCP" | "UDP" | "SCTP") {
            return Err(Refusal::new(
                field("protocol"),
                format!("{protocol:?}"),
                "TCP, UDP or SCTP",
            ));
        }
        let name = port.name.get_or_insert_default();
        if !name.is_empty() && Label::new(name).is_err() {
            return Err(Refusal::new(field("name"), format!("{name:?}"), "a DNS label"));
        }
    }
    let made = before.and_then(|old| old.metadata.creation_timestamp.clone());
    slice.metadata.creation_timestamp = Some(made.unwrap_or_else(|| now.clone()));
    slice.metadata.namespace = Some(namespace_of(&slice.metadata).to_string());
    Ok(slice)
}

fn check_endpoints(slice: &EndpointSlice) -> Result<(), Refusal> {
    let family = slice.address_type.as_str();
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        if endpoint.addresses.is_empty() {
            let field = format!("endpoints[{index}].addresses");
            return Err(Refusal::new(field, "nothing", "at least one address"));
        }
        for (place, text) in endpoint.addresses.iter().enumerate() {
            let good = match text.parse::<IpAddr>() {
                Ok(ip) => {
                    let usable = !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast();
                    usable && ip.is_ipv4() == (family == "IPv4") && family != "FQDN"
                }
                Err(_) => family == "FQDN",
            };
            if !good {
                let field = format!("endpoints[{index}].addresses[{place}]");
                let expected = format!("an address of the type {family} that can be sent to");
                return Err(Refusal::new(field, format!("{text:?}"), expected));
            }
        }
        if let Some(name) = endpoint
            .hostname
            .as_deref()
            .filter(|name| Label::new(name).is_err())
        {
            let field = format!("endpoints[{index}].hostname");
            return Err(Refusal::new(field, format!("{name:?}"), "a DNS label"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_slice_is_checked_and_filled_in() {
        let now = Time("2026-01-02T03:04:05Z".parse().unwrap());
        let slice = |address: &str, port: i32| {
            let value = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": "db-1"}, "addressType": "IPv4",
                "endpoints": [{"addresses": [address]}], "ports": [{"port": port}]});
            settle(serde_json::from_value(value).unwrap(), None, &now)
        };
        let good = slice("10.0.0.1", 5432).unwrap();
        assert_eq!(good.ports.unwrap()[0].protocol.as_deref(), Some("TCP"));
        assert_eq!(
            slice("fd00::1", 1).unwrap_err().field,
            "endpoints[0].addresses[0]"
        );
        assert_eq!(
            slice("127.0.0.1", 1).unwrap_err().field,
            "endpoints[0].addresses[0]"
        );
        assert_eq!(slice("10.0.0.1", 0).unwrap_err().field, "ports[0].port");
    }
}
