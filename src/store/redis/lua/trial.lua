#!lua flags=allow-oom
-- Does once, on a key of its own, whatever any other script or command does, so that a missing right shows at the start.
-- KEYS: the trial, which is also its channel
-- An earlier trial may have been broken off anywhere; whatever that leaves behind has an end.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], '', 'PX', 1000, 'NX')
redis.call('GET', KEYS[1])
redis.call('GETRANGE', KEYS[1], 0, 1)
redis.call('PTTL', KEYS[1])
redis.call('PEXPIRE', KEYS[1], 1000)
redis.call('SPUBLISH', KEYS[1], '')
redis.call('TIME')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'sealed', '', 'generation', '0')
redis.call('PEXPIRE', KEYS[1], 1000)
redis.call('HGET', KEYS[1], 'generation')
redis.call('HMGET', KEYS[1], 'sealed', 'generation')
redis.call('HDEL', KEYS[1], 'sealed')
redis.call('DEL', KEYS[1])
