//! Which server owns which hash tag, made out of what several servers say. Pure: hides the texts they say it in.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redis_protocol::redis_keyslot;

use crate::store::redis::servers::Address;

const SLOTS: u16 = 16_384;

/// The owner of each of the 256 hash tags that a scene can have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owners {
    by_tag: HashMap<String, Address>,
}

impl Owners {
    /// One server owns everything.
    pub(super) fn single(address: &Address) -> Self {
        Self::of_tags(|_| Some(address.clone()))
    }

    /// What the nodes of a cluster say together: for each slot the claim with the highest config epoch.
    pub(super) fn of_cluster(views: &[View]) -> Self {
        let claims = views.iter().flat_map(|view| &view.claims).collect::<Vec<_>>();
        Self::of_tags(|tag| {
            let slot = redis_keyslot(tag.as_bytes());
            claims
                .iter()
                .filter(|claim| claim.slots.iter().any(|&(first, last)| (first..=last).contains(&slot)))
                .max_by_key(|claim| claim.epoch)
                .map(|claim| claim.address.clone())
        })
    }

    /// Every tag that has an owner, with it.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Address)> {
        self.by_tag.iter().map(|(tag, address)| (tag.as_str(), address))
    }

    /// Everybody who owns something.
    pub(super) fn addresses(&self) -> BTreeSet<&Address> {
        self.by_tag.values().collect()
    }

    fn of_tags(owner: impl Fn(&str) -> Option<Address>) -> Self {
        let by_tag = (0..=u8::MAX)
            .map(|byte| format!("{byte:02x}"))
            .filter_map(|tag| owner(&tag).map(|address| (tag, address)))
            .collect();
        Self { by_tag }
    }
}

/// What one node says of its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Every node that has an address, by its id.
    pub(super) nodes: BTreeMap<String, Address>,
    claims: Vec<Claim>,
    /// Slots that this node gives away, and the id of whom to.
    moving: Vec<(u16, String)>,
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

    /// The slots that this node gives away, and whom to.
    pub(super) fn moving(&self) -> impl Iterator<Item = (u16, Address)> {
        let place = |(slot, id): &(u16, String)| Some((*slot, self.nodes.get(id)?.clone()));
        self.moving.iter().filter_map(place)
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
        let epoch = fields.nth(3)?.parse().ok()?;
        let slots = fields.skip(1).collect::<Vec<_>>();
        if has("myself") {
            self.moving
                .extend(slots.iter().filter_map(|slot| slot_given_away(slot)));
        }
        let slots = slots.into_iter().filter_map(slot_range).collect::<Vec<_>>();
        if has("master") && !slots.is_empty() {
            self.claims.push(Claim { address, epoch, slots });
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

/// `[93->-id]`
fn slot_given_away(text: &str) -> Option<(u16, String)> {
    let (slot, id) = text.strip_prefix('[')?.strip_suffix(']')?.split_once("->-")?;
    Some((slot.parse().ok()?, id.to_owned()))
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

    #[test]
    fn each_tag_belongs_to_the_master_that_claims_its_slot() {
        let owners = Owners::of_cluster(&[view(SETTLED)]);
        assert_eq!(redis_keyslot(b"scanlogin:{00}:0"), redis_keyslot(b"00"));
        assert_eq!(owners.by_tag["02"], address("10.0.0.2:7000"));
        assert_eq!(owners.by_tag["3f"], address("10.0.0.1:7000"));
        assert_eq!(owners.by_tag["00"], address("10.0.0.3:7000"));
        assert_eq!(owners.addresses().len(), 3);
        assert_eq!(owners.iter().count(), 256);
    }

    #[test]
    fn replicas_are_known_but_own_nothing_and_nodes_without_address_are_not_known() {
        let view = view(SETTLED);
        assert_eq!(view.nodes.get("d4"), Some(&address("10.0.0.4:7000")));
        assert_eq!(view.nodes.len(), 4);
    }

    #[test]
    fn slots_are_on_their_way_if_their_owner_says_so_itself() {
        assert_eq!(
            view(SETTLED).moving().count(),
            0,
            "one is coming, another is told of by a third"
        );
        let giving = view(&SETTLED.replace("[93-<-a1]", "[93->-a1] [94->-nobody]"));
        assert_eq!(giving.moving().collect::<Vec<_>>(), [(93, address("10.0.0.1:7000"))]);
    }

    #[test]
    fn the_claim_with_the_highest_epoch_wins_whoever_says_it() {
        let moved = SETTLED.replace(
            "slave b2 0 1426238317741 1 connected",
            "master - 0 1426238317741 7 connected 0-5460",
        );
        for views in [[view(SETTLED), view(&moved)], [view(&moved), view(SETTLED)]] {
            assert_eq!(Owners::of_cluster(&views).by_tag["02"], address("10.0.0.4:7000"));
        }
    }

    #[test]
    fn a_slot_that_nobody_claims_has_no_owner() {
        let owners = Owners::of_cluster(&[view(&SETTLED.replace("connected 0-5460", "connected"))]);
        assert!(!owners.by_tag.contains_key("02"));
        assert!(owners.by_tag.contains_key("3f"));
        assert_eq!(Owners::of_cluster(&[]), Owners::default());
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
