//! wechat_client.
