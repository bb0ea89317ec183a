//! Rules and links of others, which our programs must neither use nor harm.

/// The bridge that Docker leaves on every host.
pub const DOCKER_LINKS: &str = "
ip link add docker0 address 02:42:ac:11:00:01 type bridge
ip address add 172.17.0.1/16 brd 172.17.255.255 dev docker0
ip link set docker0 up
";

/// What Docker 26 writes on a host with one published port.
pub const DOCKER_RULES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
";

/// Rules in one call: as a plain user, iptables-nft cannot send many more in one message.
const AT_ONCE: usize = 200;

/// Somebody's firewall with this many rules in two tables, with comments that need care; each text is
/// for one call of `iptables-restore --noflush`.
pub fn rules(count: usize) -> Vec<String> {
    let mut texts = vec![String::from(
        "*filter\n:FOREIGN - [0:0]\n-A INPUT -j FOREIGN\n-A FORWARD -j FOREIGN\n\
         -A FORWARD -m comment --comment \"not a KUBE-SERVICES rule\" -j ACCEPT\nCOMMIT\n\
         *nat\n:FOREIGN - [0:0]\n-A PREROUTING -j FOREIGN\n-A POSTROUTING -s 203.0.113.0/24 -j MASQUERADE\nCOMMIT\n",
    )];
    let translations = count / 4;
    let all: Vec<(&str, String)> = (0..count - translations)
        .map(|i| ("filter", block(i)))
        .chain((0..translations).map(|i| ("nat", translation(i))))
        .collect();
    for part in all
        .chunk_by(|a, b| a.0 == b.0)
        .flat_map(|rules| rules.chunks(AT_ONCE))
    {
        let mut text = format!("*{}\n", part[0].0);
        text.extend(part.iter().map(|(_, rule)| rule.as_str()));
        text.push_str("COMMIT\n");
        texts.push(text);
    }
    texts
}

fn block(i: usize) -> String {
    let (high, low, port) = (i / 250, i % 250 + 1, 1024 + i);
    let comment = format!(r#""block {i}: \"bad\" host""#);
    format!(
        "-A FOREIGN -s 203.0.{high}.{low}/32 -p tcp -m tcp --dport {port} -m comment --comment {comment} -j DROP\n"
    )
}

fn translation(i: usize) -> String {
    let (low, port) = (i % 250 + 1, 2000 + i);
    format!(
        "-A FOREIGN -d 198.51.100.{low}/32 -p udp -m udp --dport {port} -j DNAT --to-destination 203.0.113.7:53\n"
    )
}
