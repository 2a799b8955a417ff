#!lua flags=allow-oom
-- Drops the access_token of one generation. The generation stays, so that the next one is greater.
-- KEYS: the token
-- ARGV: generation
if redis.call('HGET', KEYS[1], 'generation') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'sealed')
end
