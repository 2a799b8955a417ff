//! code_pool.
