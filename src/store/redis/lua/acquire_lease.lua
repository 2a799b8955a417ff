#!lua flags=allow-oom
-- Takes a lease, or tells whose it is.
-- KEYS: the lease
-- ARGV: owner and what tells this call from others, the lease's life in ms
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2], 'NX', 'GET')
