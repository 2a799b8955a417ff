//! A whole login over two replicas of the service, on Redis in each shape that a URL can name.

use crate::support::roles::{Browser, Phone, Site};
use crate::support::service::Service;
use crate::support::shape::{Security, Shape, Topology};

macro_rules! on_each_shape {
    ($($shape:ident, $topology:ident, $security:ident;)+) => {
        $(#[tokio::test]
        async fn $shape() {
            two_replicas_carry_a_login_from_start_to_end(Topology::$topology, Security::$security).await;
        })+
    };
}

on_each_shape! {
    a_login_on_one_server, Standalone, Plain;
    a_login_on_one_server_by_tls_with_the_least_rights, Standalone, AclTls;
    a_login_on_the_primary_that_sentinels_name, Sentinel, Plain;
    a_login_on_the_primary_that_sentinels_name_by_tls_with_the_least_rights, Sentinel, AclTls;
    a_login_on_a_cluster, Cluster, Plain;
    a_login_on_a_cluster_by_tls_with_the_least_rights, Cluster, AclTls;
}

async fn two_replicas_carry_a_login_from_start_to_end(topology: Topology, security: Security) {
    let shape = Shape::start(topology, security).await;
    shape.be_patient();
    let a = shape.tell(Service::builder()).start().await;
    let b = shape.tell(a.replica()).start().await;
    // In a Cluster several, so that every shard has some.
    for number in 0..8 {
        let openid = format!("person-{number}");
        let browser = Browser::start(&a).await;
        assert_eq!(browser.code_image().await.status, 200);
        let mut events = browser.events().await;
        events.next_is("waiting").await;
        let phone = Phone::that_scanned(&openid, &b, &browser.scene).await;
        events.next_is("scanned").await;
        phone.confirm(&b, &browser.scene).await.ok();
        let confirmed = events.next_is("confirmed").await;
        let code = confirmed.data["code"].as_str().expect("a code");
        let redeemed = Site::demo().redeem(&b, code).await.ok();
        let claims = Site::verified(&a, redeemed["id_token"].as_str().expect("a token")).await;
        assert_eq!(claims["sub"], *openid);
        let token = redeemed["access_token"].as_str().expect("a token");
        assert_eq!(Site::userinfo(&a, token).await.ok()["sub"], *openid);
        Site::demo().redeem(&a, code).await.oauth_error(400, "invalid_grant");
    }
    let waits = async |label: &str| b.metric("scanlogin_store_waits_total", label).await;
    let (all, replicated) = (waits("").await, waits("outcome=\"replicated\"").await);
    assert!(all >= 16.0, "{all}");
    // Few may have been vouched for instead, where a replica had to wait for its turn on this machine.
    let is_as_expected = match topology {
        Topology::Standalone => replicated == 0.0,
        Topology::Sentinel | Topology::Cluster => replicated > all / 2.0,
    };
    assert!(
        is_as_expected,
        "{replicated} of {all} durable writes waited for a replica"
    );
}
