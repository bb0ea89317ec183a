//! The only places that touch the outside: files, processes, the kernel, time.
//!
//! | module | what it touches |
//! | --- | --- |
//! | [`addresses`] | the host: its name, its addresses, a sysctl |
//! | [`config`] | the configuration file |
//! | [`conntrack`] | the kernel's connection table, over netlink |
//! | [`counted`] | the kernel's rules with their counters |
//! | [`dump`] | a dump of iptables-save |
//! | [`facts`] | the interfaces, routes and settings of a node |
//! | [`flow_events`] | news of connections, over netlink |
//! | [`kernel`] | the kernel's tables as the engine acts on them: lock, count of changes, parts |
//! | [`netns`] | network namespaces of nodes |
//! | [`links`] | the kernel's links and own addresses, over netlink |
//! | [`place`] | links of a node, listeners of a pod |
//! | [`probe`] | calls that are made to see who answers |
//! | [`processes`] | other miniproxies on this node |
//! | [`registry`] | the registry's files |
//! | [`rule_events`] | news of rules and who wrote them, over netlink |
//! | [`serve`] | HTTP: health, metrics, healthCheckNodePorts |
//! | [`sysctls`] | settings of the kernel, and the record that puts them back |
//! | [`tables`] | the kernel's tables, by iptables-save and iptables-restore |
//! | [`trace`] | one connection, marked, traced by the kernel, seen on cables |
//! | [`watch`] | the registry's directories, by inotify |

pub mod addresses;
pub mod config;
pub mod conntrack;
pub mod counted;
pub mod dump;
pub mod facts;
pub mod flow_events;
pub mod kernel;
pub mod links;
pub mod netns;
pub mod nfacct;
pub mod place;
pub mod probe;
pub mod processes;
pub mod registry;
pub mod rule_events;
pub mod serve;
pub mod sysctls;
pub mod tables;
pub mod trace;
pub mod watch;
