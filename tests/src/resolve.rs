//! A resolver of somebody else's, to ask a name server as programs do.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use serde_json::{Value, json};

/// Asks a server for a name, with a search path as `resolv.conf` has it.
///
/// # Panics
/// When the words make no question.
#[must_use]
pub fn resolve(server: IpAddr, kind: &str, name: &str, search: &[&str]) -> Value {
    let kind: RecordType = kind.parse().expect("a type of records");
    let search = search
        .iter()
        .map(|domain| Name::from_ascii(domain).expect("a domain"))
        .collect();
    let servers = vec![NameServerConfig::udp_and_tcp(server)];
    let config = ResolverConfig::from_parts(None, search, servers);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.ndots = 5;
    options.attempts = 1;
    options.timeout = Duration::from_secs(3);
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    // Letters of either case, as resolvers send them to make forging harder.
    options.case_randomization = true;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let resolver = builder.build().expect("a resolver");
        match resolver.lookup(name, kind).await {
            Ok(found) => {
                let mut answers: Vec<String> = found
                    .answers()
                    .iter()
                    .map(|record| record.data.to_string())
                    .collect();
                answers.sort();
                json!({ "answers": answers })
            }
            Err(error) => json!({
                "nothing": error.is_no_records_found(), "noSuchName": error.is_nx_domain(),
                "error": error.to_string(),
            }),
        }
    })
}
