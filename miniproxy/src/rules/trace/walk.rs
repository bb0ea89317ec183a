//! The way through the chains: all states that a packet can be in go rule by rule, together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::rule::{Rule, Side};
use super::super::set::{Found, TableName};
use super::condition::{Hook, Met, Scene};
use super::effect::{Effect, asks_for_destination, effect};
use super::state::{Spot, State, States, add, certain, merge};
use super::{NodeFacts, Packet, Verdict, Why};

/// Chains nested deeper than this are in no kernel: iptables-nft takes 16.
const DEPTH: usize = 64;

/// Five thousand endpoints in doubt meet sixty rules; more is, or looks like, chains made to explode.
const DOUBTFUL: usize = 300_000;

/// What is known of a share that cannot be told.
#[derive(Debug)]
pub(super) struct DoubtSoFar<'a> {
    pub(super) share: f64,
    pub(super) rules: Vec<(Spot<'a>, Why)>,
    /// Whatever the rules in doubt do, it has come to the same.
    pub(super) settled: bool,
}

/// What a rule met.
#[derive(Debug)]
pub(super) struct HopSoFar<'a> {
    pub(super) spot: Spot<'a>,
    pub(super) rule: &'a Rule,
    pub(super) reached: f64,
    pub(super) matched: f64,
    pub(super) perhaps: bool,
}

/// How the states left a chain.
#[derive(Debug, Default)]
struct Left<'a> {
    /// By its end or by RETURN: the caller goes on.
    fell: States<'a>,
    /// By a verdict that ends this table.
    accepted: States<'a>,
}

/// A packet on its way.
pub(super) struct Walk<'a> {
    found: &'a Found,
    pub(super) scene: Scene<'a>,
    steps_left: usize,
    /// What of them may be spent on states in doubt, of which each rule in doubt makes twice as many.
    doubtful_left: usize,
    table: TableName,
    stack: Vec<&'a str>,
    /// Those that came through.
    pub(super) arrived: States<'a>,
    /// Those that did not.
    pub(super) stopped: BTreeMap<(State<'a>, Verdict, Spot<'a>), f64>,
    /// The doubts that some of those are part of.
    stopped_doubts: BTreeSet<usize>,
    /// Rules whose target nobody knows, with why.
    pub(super) unknown: BTreeMap<Spot<'a>, Why>,
    pub(super) doubts: Vec<DoubtSoFar<'a>>,
    pub(super) hops: Vec<HopSoFar<'a>>,
    hop_of: BTreeMap<Spot<'a>, usize>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(found: &'a Found, node: &'a NodeFacts, packet: &'a Packet, steps: usize) -> Self {
        Self {
            found,
            scene: Scene::new(found, node, packet),
            steps_left: steps,
            doubtful_left: steps.min(DOUBTFUL),
            table: TableName::Nat,
            stack: Vec::new(),
            arrived: States::new(),
            stopped: BTreeMap::new(),
            stopped_doubts: BTreeSet::new(),
            unknown: BTreeMap::new(),
            doubts: Vec::new(),
            hops: Vec::new(),
            hop_of: BTreeMap::new(),
        }
    }

    /// The whole way, in the kernel's order of hooks and tables.
    pub(super) fn run(mut self) -> Self {
        use TableName::{Filter, Mangle, Nat, Raw, Security};
        let packet = self.scene.packet;
        let states = States::from([(State::new(packet.destination, packet.port), 1.0)]);
        if self.scene.arriving.is_some() {
            let states = self.hook(Hook::Prerouting, &[Raw, Mangle, Nat], states);
            let (own, others) = self.by_owner(states);
            let own = self.hook(Hook::Input, &[Mangle, Filter, Security, Nat], own);
            merge(&mut self.arrived, own);
            let others = self.hook(Hook::Forward, &[Mangle, Filter, Security], others);
            let others = self.leave(others);
            merge(&mut self.arrived, others);
            return self;
        }
        let states = self.hook(Hook::Output, &[Raw, Mangle, Nat, Filter, Security], states);
        let states = self.leave(states);
        let (own, others) = self.by_owner(states);
        merge(&mut self.arrived, others);
        // What the node sends to itself comes in again by loopback. Its addresses are settled: the
        // nat table is not asked a second time.
        self.scene.arriving = Some("lo");
        let own = self.hook(Hook::Prerouting, &[Raw, Mangle], own);
        let own = self.hook(Hook::Input, &[Mangle, Filter, Security], own);
        merge(&mut self.arrived, own);
        self
    }

    fn leave(&mut self, states: States<'a>) -> States<'a> {
        let mut leaving = States::new();
        for (state, share) in states {
            let mark_before = Some(state.mark);
            add(&mut leaving, State { mark_before, ..state }, share);
        }
        self.hook(Hook::Postrouting, &[TableName::Mangle, TableName::Nat], leaving)
    }

    fn by_owner(&self, states: States<'a>) -> (States<'a>, States<'a>) {
        let node = self.scene.node;
        states
            .into_iter()
            .partition(|(state, _)| node.is_own(state.destination))
    }

    fn hook(&mut self, hook: Hook, tables: &[TableName], mut states: States<'a>) -> States<'a> {
        self.scene.hook = hook;
        for table in tables {
            if states.is_empty() {
                break;
            }
            self.table = *table;
            // What is not tracked does not meet the nat table.
            let (passed_by, met) = states
                .into_iter()
                .partition(|(state, _)| state.untracked && *table == TableName::Nat);
            states = self.built_in(hook.chain(), met);
            merge(&mut states, passed_by);
        }
        states
    }

    /// A built-in chain with its policy.
    fn built_in(&mut self, name: &'static str, states: States<'a>) -> States<'a> {
        let known = self.doubts.len();
        let mut left = self.chain(name, states);
        self.settle(known, &mut left);
        let Left { fell, mut accepted } = left;
        let spot = Spot {
            table: self.table,
            chain: name,
            number: 0,
        };
        let policy = self.scene.node.policies.get(&(self.table, name.to_string()));
        match policy {
            None | Some(Verdict::Accept) => {
                let is_there = self.found.chain(self.table, name).is_some();
                let fell = if is_there { self.accepted(spot, fell) } else { fell };
                merge(&mut accepted, fell);
            }
            Some(verdict) => self.stop(*verdict, spot, fell),
        }
        accepted
    }

    fn chain(&mut self, name: &'a str, states: States<'a>) -> Left<'a> {
        let found: &'a Found = self.found;
        let mut left = Left::default();
        let mut here = states;
        self.stack.push(name);
        let rules = found.chain(self.table, name).unwrap_or_default();
        for (index, rule) in rules.iter().enumerate() {
            if here.is_empty() {
                break;
            }
            let spot = Spot {
                table: self.table,
                chain: name,
                number: index + 1,
            };
            if self.steps_left == 0
                || self.doubtful_left == 0 && here.keys().any(|state| state.doubt.is_some())
            {
                self.stop_unknown(Why::TooLong, spot, std::mem::take(&mut here));
                break;
            }
            self.rule(spot, rule, &mut here, &mut left);
        }
        self.stack.pop();
        merge(&mut left.fell, here);
        left
    }

    fn rule(&mut self, spot: Spot<'a>, rule: &'a Rule, here: &mut States<'a>, left: &mut Left<'a>) {
        let met = self.held_against(rule, here);
        if met.is_empty() {
            return;
        }
        let claims = spot.table == TableName::Nat && asks_for_destination(rule);
        let reached = certain(here);
        let mut taken = States::new();
        let mut in_doubt = Vec::new();
        for (state, share, met) in met {
            let claimed = State {
                claimed: state.claimed || claims,
                ..state
            };
            match met {
                Met::No => {}
                Met::Unknown if effect(rule) == Effect::Nothing => {}
                Met::Unknown => in_doubt.push((state, share)),
                Met::Chance(chance) => {
                    here.remove(&state);
                    if chance < 1.0 {
                        add(here, state, share * (1.0 - chance));
                    }
                    add(&mut taken, claimed, share * chance);
                }
            }
        }
        let perhaps = !in_doubt.is_empty() || taken.keys().any(|state| state.doubt.is_some());
        self.note_hop(spot, rule, (reached, certain(&taken), perhaps));
        if !taken.is_empty() {
            self.apply(spot, rule, taken, here, left);
        }
        for (state, share) in in_doubt {
            self.fork(spot, rule, (state, share), here, left);
        }
    }

    /// The states that may match. A rule for one host, of which there are thousands, is not held
    /// against each of thousands of endpoints.
    fn held_against(&mut self, rule: &Rule, here: &States<'a>) -> Vec<(State<'a>, f64, Met)> {
        let mut looks = 0;
        let mut doubtful = 0;
        let mut may_match = Vec::new();
        let look = |(state, share): (&State<'a>, &f64)| {
            looks += 1;
            doubtful += usize::from(state.doubt.is_some());
            match self.scene.rule(rule, state) {
                Met::No => {}
                met => may_match.push((*state, *share, met)),
            }
        };
        match rule.destination() {
            Some(host) => here
                .range(State::new(host, 0)..)
                .take_while(|(state, _)| state.destination == host)
                .for_each(look),
            None => here.iter().for_each(look),
        }
        self.steps_left = self.steps_left.saturating_sub(looks.max(1));
        self.doubtful_left = self.doubtful_left.saturating_sub(doubtful);
        may_match
    }

    fn note_hop(&mut self, spot: Spot<'a>, rule: &'a Rule, met: (f64, f64, bool)) {
        let (reached, matched, perhaps) = met;
        if matched <= 0.0 && !perhaps {
            return;
        }
        let next = self.hops.len();
        let index = *self.hop_of.entry(spot).or_insert(next);
        if index == next {
            self.hops.push(HopSoFar {
                spot,
                rule,
                reached: 0.0,
                matched: 0.0,
                perhaps: false,
            });
        }
        if let Some(hop) = self.hops.get_mut(index) {
            hop.reached += reached;
            hop.matched += matched;
            hop.perhaps |= perhaps;
        }
    }

    /// Nobody knows whether the rule matches: both ways are gone, and if they lead to the same
    /// place there is no doubt.
    fn fork(
        &mut self,
        spot: Spot<'a>,
        rule: &'a Rule,
        (state, share): (State<'a>, f64),
        here: &mut States<'a>,
        left: &mut Left<'a>,
    ) {
        let mut stays = States::new();
        let mut goes = Left::default();
        if let Some(known) = state.doubt {
            self.doubt_rule(known, spot, Why::Condition);
            self.apply(spot, rule, States::from([(state, share)]), &mut stays, &mut goes);
        } else {
            let doubt = Some(self.doubts.len());
            self.doubts.push(DoubtSoFar {
                share,
                rules: vec![(spot, Why::Condition)],
                settled: false,
            });
            let doubted = State { doubt, ..state };
            let stopped = self.stopped.len();
            self.apply(
                spot,
                rule,
                States::from([(doubted, share)]),
                &mut stays,
                &mut goes,
            );
            let unchanged = stays.len() == 1 && stays.contains_key(&doubted);
            if unchanged && goes.fell.is_empty() && goes.accepted.is_empty() && self.stopped.len() == stopped
            {
                self.doubts.pop();
                return;
            }
            here.remove(&state);
            add(here, doubted, share);
        }
        merge(here, stays);
        merge(&mut left.fell, goes.fell);
        merge(&mut left.accepted, goes.accepted);
    }

    fn doubt_rule(&mut self, doubt: usize, spot: Spot<'a>, why: Why) {
        if let Some(doubt) = self.doubts.get_mut(doubt)
            && !doubt.rules.contains(&(spot, why))
        {
            doubt.rules.push((spot, why));
        }
    }

    /// Does to the states what the rule does.
    fn apply(
        &mut self,
        spot: Spot<'a>,
        rule: &'a Rule,
        states: States<'a>,
        here: &mut States<'a>,
        left: &mut Left<'a>,
    ) {
        match effect(rule) {
            Effect::Nothing => merge(here, states),
            Effect::Call { chain, comes_back } => match self.enter(chain) {
                Ok(()) => {
                    let known = self.doubts.len();
                    let mut inner = self.chain(chain, states);
                    self.settle(known, &mut inner);
                    merge(&mut left.accepted, inner.accepted);
                    merge(if comes_back { here } else { &mut left.fell }, inner.fell);
                }
                Err(why) => self.stop_unknown(why, spot, states),
            },
            Effect::Return => merge(&mut left.fell, states),
            Effect::Accept => merge(&mut left.accepted, self.accepted(spot, states)),
            Effect::Stop(verdict) => self.stop(verdict, spot, states),
            Effect::Mark { value, mask } => {
                for (state, share) in states {
                    let mark = (state.mark & !mask) ^ value;
                    add(here, State { mark, ..state }, share);
                }
            }
            Effect::ConnMark(change) => {
                for (state, share) in states {
                    let (mark, conn_mark) = change.applied(state.mark, state.conn_mark);
                    add(
                        here,
                        State {
                            mark,
                            conn_mark,
                            ..state
                        },
                        share,
                    );
                }
            }
            Effect::NoTrack if self.table == TableName::Raw => {
                for (state, share) in states {
                    let untracked = true;
                    add(here, State { untracked, ..state }, share);
                }
            }
            Effect::Dnat { ip, port } if self.may_rewrite(Side::Destination) => {
                rewrite(states, ip, port, left);
            }
            Effect::Redirect { port } if self.may_rewrite(Side::Destination) => match self.scene.redirected()
            {
                Some(ip) => rewrite(states, ip, port, left),
                None => self.stop_unknown(Why::Target, spot, states),
            },
            Effect::Masquerade if self.may_rewrite(Side::Source) => {
                for (state, share) in states {
                    let masqueraded = true;
                    add(&mut left.accepted, State { masqueraded, ..state }, share);
                }
            }
            Effect::Dnat { .. }
            | Effect::Redirect { .. }
            | Effect::Masquerade
            | Effect::NoTrack
            | Effect::Unknown => {
                self.stop_unknown(Why::Target, spot, states);
            }
        }
    }

    /// Doubts that began in a chain end with it, where packets leave it as one and the same whatever
    /// the rules in doubt do.
    fn settle(&mut self, known: usize, left: &mut Left<'a>) {
        if self.doubts.len() == known {
            return;
        }
        let mut ends: BTreeMap<usize, usize> = BTreeMap::new();
        let leaving = left.fell.keys().chain(left.accepted.keys());
        for doubt in leaving
            .filter_map(|state| state.doubt)
            .filter(|doubt| *doubt >= known)
        {
            *ends.entry(doubt).or_default() += 1;
        }
        ends.retain(|doubt, ends| *ends == 1 && !self.stopped_doubts.contains(doubt));
        for states in [&mut left.fell, &mut left.accepted] {
            for (state, share) in std::mem::take(states) {
                match state.doubt.filter(|doubt| ends.contains_key(doubt)) {
                    Some(doubt) => {
                        self.doubts[doubt].settled = true;
                        let all = self.doubts[doubt].share;
                        add(states, State { doubt: None, ..state }, all);
                    }
                    None => add(states, state, share),
                }
            }
        }
    }

    /// Where the kernel takes targets that rewrite.
    fn may_rewrite(&self, side: Side) -> bool {
        let hook = match side {
            Side::Destination => matches!(self.scene.hook, Hook::Prerouting | Hook::Output),
            Side::Source => matches!(self.scene.hook, Hook::Postrouting | Hook::Input),
        };
        hook && self.table == TableName::Nat
    }

    fn enter(&self, chain: &str) -> Result<(), Why> {
        if self.stack.contains(&chain) {
            Err(Why::Loop)
        } else if self.stack.len() >= DEPTH {
            Err(Why::TooLong)
        } else if self.found.chain(self.table, chain).is_none() {
            Err(Why::MissingChain)
        } else {
            Ok(())
        }
    }

    /// Only the filter table's word is worth telling: the others accept everything.
    fn accepted(&self, spot: Spot<'a>, states: States<'a>) -> States<'a> {
        if self.table != TableName::Filter {
            return states;
        }
        let mut accepted = States::new();
        for (state, share) in states {
            let by = Some(spot);
            add(&mut accepted, State { by, ..state }, share);
        }
        accepted
    }

    fn stop(&mut self, verdict: Verdict, spot: Spot<'a>, states: States<'a>) {
        for (state, share) in states {
            self.stopped_doubts.extend(state.doubt);
            let sum = self.stopped.entry((state, verdict, spot)).or_default();
            *sum += share;
        }
    }

    fn stop_unknown(&mut self, why: Why, spot: Spot<'a>, states: States<'a>) {
        self.unknown.insert(spot, why);
        for doubt in states.keys().filter_map(|state| state.doubt) {
            self.doubt_rule(doubt, spot, why);
        }
        self.stop(Verdict::Unknown, spot, states);
    }
}

fn rewrite<'a>(states: States<'a>, ip: IpAddr, port: Option<u16>, left: &mut Left<'a>) {
    for (state, share) in states {
        let rewritten = State {
            destination: ip,
            port: port.unwrap_or(state.port),
            rewritten: true,
            ..state
        };
        add(&mut left.accepted, rewritten, share);
    }
}
