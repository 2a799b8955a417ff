//! Which server owns which slot, made out of what several servers say. Pure: hides the texts they say it in.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::redis::keys::{SLOTS, tags};
use crate::store::redis::servers::Address;

/// The owner of each slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::store::redis) struct Owners {
    primaries: Vec<Address>,
    /// For each slot the place of its owner among them.
    by_slot: Vec<Option<usize>>,
}

impl Owners {
    /// One server owns everything.
    pub(in crate::store::redis) fn single(address: &Address) -> Self {
        Self {
            primaries: vec![address.clone()],
            by_slot: vec![Some(0); usize::from(SLOTS)],
        }
    }

    /// What the nodes of a cluster say together: for each slot the claim with the highest config epoch. A primary that owns
    /// nothing yet may soon.
    pub(super) fn of_cluster(views: &[View]) -> Self {
        let mut claims: Vec<&Claim> = views.iter().flat_map(|view| &view.claims).collect();
        claims.sort_by_key(|claim| claim.epoch);
        let mut by_slot = vec![None; usize::from(SLOTS)];
        for claim in claims {
            for (first, last) in &claim.slots {
                let slots = by_slot.get_mut(usize::from(*first)..=usize::from(*last));
                slots
                    .into_iter()
                    .flatten()
                    .for_each(|owner| *owner = Some(&claim.address));
            }
        }
        let mut primaries: BTreeSet<&Address> = by_slot.iter().copied().flatten().collect();
        primaries.extend(views.iter().flat_map(|view| &view.idle));
        let primaries: Vec<Address> = primaries.into_iter().cloned().collect();
        let place = |owner: Option<&Address>| primaries.binary_search(owner?).ok();
        let by_slot = by_slot.into_iter().map(place).collect();
        Self { primaries, by_slot }
    }

    /// Who has the keys of this slot.
    pub(in crate::store::redis) fn of(&self, slot: u16) -> Option<&Address> {
        self.primaries.get((*self.by_slot.get(usize::from(slot))?)?)
    }

    /// Every hash tag of scenes that has an owner, with it.
    pub(in crate::store::redis) fn of_tags(&self) -> impl Iterator<Item = (String, &Address)> {
        tags().filter_map(|(tag, slot)| Some((tag, self.of(slot)?)))
    }

    /// Everybody who owns something, or is there to.
    pub(in crate::store::redis) fn primaries(&self) -> &[Address] {
        &self.primaries
    }
}

/// What one node says of its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Every node that has an address, by its id.
    pub(super) nodes: BTreeMap<String, Address>,
    /// The node that says it, where that is a primary with slots.
    pub(super) speaker: Option<Address>,
    /// When each other primary with slots last answered it, by its own clock.
    pub(super) answered: Vec<(String, u64)>,
    claims: Vec<Claim>,
    /// Primaries that own nothing, and that nobody finds dead.
    idle: Vec<Address>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    address: Address,
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

impl View {
    /// Reads the answer to `CLUSTER NODES` of the node that was `asked`; lines it can't read say nothing. With
    /// `names`, a node that announces a host name goes by it: certificates rarely name IP addresses.
    pub(super) fn parse(text: &str, asked: &Address, names: bool) -> Self {
        let mut view = Self::default();
        for line in text.lines() {
            let _ = view.read_line(line, asked, names);
        }
        view
    }

    fn read_line(&mut self, line: &str, asked: &Address, names: bool) -> Option<()> {
        let mut fields = line.split(' ');
        let (id, location, flags) = (fields.next()?, fields.next()?, fields.next()?);
        let has = |flag| flags.split(',').any(|it| it == flag);
        if has("noaddr") || has("handshake") {
            return None;
        }
        let address = address(location, names).or_else(|| has("myself").then(|| asked.clone()))?;
        self.nodes.insert(id.to_owned(), address.clone());
        // <master> <ping-sent> <pong-recv> <config-epoch> <link-state> <slot> ...
        let (pong, epoch) = (fields.nth(2)?.parse().ok()?, fields.next()?.parse().ok()?);
        let slots = fields.skip(1).filter_map(slot_range).collect::<Vec<_>>();
        if has("master") && !slots.is_empty() {
            if has("myself") {
                self.speaker = Some(address.clone());
            } else {
                self.answered.push((id.to_owned(), pong));
            }
            self.claims.push(Claim { address, epoch, slots });
        } else if has("master") && !has("fail") && !has("fail?") {
            self.idle.push(address);
        }
        Some(())
    }
}

/// The address that more than half of the sentinels that answered call the master.
pub(super) fn majority(answers: &[Address]) -> Option<&Address> {
    answers
        .iter()
        .find(|address| 2 * answers.iter().filter(|other| other == address).count() > answers.len())
}

/// `ip:port@cport[,hostname[,...]]`; a node that has met nobody does not know its ip.
fn address(location: &str, names: bool) -> Option<Address> {
    let mut parts = location.split(',');
    let (ip_and_port, _) = parts.next()?.split_once('@')?;
    let address = Address::parse(ip_and_port)?;
    let name = parts.next().filter(|name| names && !name.is_empty());
    let host = name.unwrap_or(&address.host).to_owned();
    (!host.is_empty()).then_some(Address { host, ..address })
}

/// `5` or `0-100`; slots on their way (`[93-<-id]`) belong where they were.
fn slot_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = (first.parse().ok()?, last.parse().ok()?);
    (range.1 < SLOTS).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    // By `CLUSTER KEYSLOT`, {00} is in slot 13254, {3f} in 7334, {02} in 4996.
    const SETTLED: &str = "\
a1 10.0.0.1:7000@17000,one.example,shard-id=x master - 0 1426238316232 2 connected 5461-10922 [5461->-c3]
b2 10.0.0.2:7000@17000,,tls-port=0 myself,master - 0 0 1 connected 0-5460 [93-<-a1]
c3 10.0.0.3:7000@17000 master - 0 1426238318243 3 connected 10923-16382 16383
d4 10.0.0.4:7000@17000 slave b2 0 1426238317741 1 connected
e5 :0@0 master,noaddr - 1426238317239 1426238317239 9 disconnected 0-16383
not a line of a node
";

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn view(text: &str) -> View {
        View::parse(text, &address("10.0.0.2:7000"), false)
    }

    fn owner(owners: &Owners, tag: &str) -> Option<Address> {
        owners
            .of_tags()
            .find(|(one, _)| one == tag)
            .map(|(_, owner)| owner.clone())
    }

    #[test]
    fn each_tag_belongs_to_the_master_that_claims_its_slot() {
        let owners = Owners::of_cluster(&[view(SETTLED)]);
        assert_eq!(owner(&owners, "02"), Some(address("10.0.0.2:7000")));
        assert_eq!(owner(&owners, "3f"), Some(address("10.0.0.1:7000")));
        assert_eq!(owner(&owners, "00"), Some(address("10.0.0.3:7000")));
        assert_eq!(owners.primaries().len(), 3);
        assert_eq!(owners.of_tags().count(), 256);
    }

    #[test]
    fn replicas_are_known_but_own_nothing_and_nodes_without_address_are_not_known() {
        let view = view(SETTLED);
        assert_eq!(view.nodes.get("d4"), Some(&address("10.0.0.4:7000")));
        assert_eq!(view.nodes.len(), 4);
    }

    #[test]
    fn a_primary_without_slots_is_there_unless_it_is_found_dead() {
        let joined = |flags| format!("{SETTLED}f6 10.0.0.6:7000@17000 {flags} - 0 0 0 connected\n");
        let knows = |flags| {
            let owners = Owners::of_cluster(&[view(&joined(flags))]);
            owners.primaries().contains(&address("10.0.0.6:7000"))
        };
        assert!(knows("master"));
        assert!(!knows("master,fail?") && !knows("master,fail") && !knows("slave"));
    }

    #[test]
    fn the_claim_with_the_highest_epoch_wins_whoever_says_it() {
        let moved = SETTLED.replace(
            "slave b2 0 1426238317741 1 connected",
            "master - 0 1426238317741 7 connected 0-5460",
        );
        for views in [[view(SETTLED), view(&moved)], [view(&moved), view(SETTLED)]] {
            assert_eq!(owner(&Owners::of_cluster(&views), "02"), Some(address("10.0.0.4:7000")));
        }
    }

    #[test]
    fn a_slot_that_nobody_claims_has_no_owner() {
        let owners = Owners::of_cluster(&[view(&SETTLED.replace("connected 0-5460", "connected"))]);
        assert_eq!(owner(&owners, "02"), None);
        assert!(owner(&owners, "3f").is_some());
        assert_eq!(Owners::of_cluster(&[]).of_tags().count(), 0);
    }

    #[test]
    fn a_node_that_does_not_know_its_address_goes_by_the_one_it_was_asked_at() {
        let view = View::parse(
            "a1 :7000@17000 myself,master - 0 0 0 connected 0-16383",
            &address("here:7000"),
            false,
        );
        assert_eq!(Owners::of_cluster(&[view]), Owners::single(&address("here:7000")));
    }

    #[test]
    fn announced_names_count_where_certificates_do() {
        let view = View::parse(SETTLED, &address("10.0.0.2:7000"), true);
        assert_eq!(view.nodes.get("a1"), Some(&address("one.example:7000")));
        assert_eq!(
            view.nodes.get("b2"),
            Some(&address("10.0.0.2:7000")),
            "without a name, the ip"
        );
    }

    #[test]
    fn sentinels_decide_by_majority_of_those_that_answer() {
        let (old, new) = (address("old:1"), address("new:1"));
        assert_eq!(majority(&[old.clone(), new.clone(), new.clone()]), Some(&new));
        assert_eq!(majority(&[old.clone(), new.clone()]), None);
        assert_eq!(majority(std::slice::from_ref(&old)), Some(&old));
        assert_eq!(majority(&[]), None);
    }
}
