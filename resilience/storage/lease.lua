-- The right to probe. ARGV: channel, kind (probe or eager), generation, ticket, permits, lease ms, eager pause ms,
-- how often the ramp may double.
local channel, kind, generation, ticket = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local permits, lease, pause, doublings = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local now = now_ms()
local row, newer = read(KEYS[1])
if newer then return {'newer', now, '', 0} end
if not row then return {'unknown', now, '', 0} end
if row.gen ~= generation then return {'lost', now, cjson.encode(row), 0} end

if kind == 'eager' then
  -- Open: before its time is over. Half-open: past the doubt of a source.
  if row.state ~= 'open' and row.state ~= 'half-open' then return {'lost', now, cjson.encode(row), 0} end
  local last = row.eager or {at = row.since_ms, ends = 0}
  local due = math.max(last.at + pause, last.ends)
  if due > now then return {'wait', now, cjson.encode(row), due} end
  row.eager = {at = now, ends = now + lease, ticket = ticket}
  -- Nobody needs to hear of it: written without a word.
  redis.call('SET', KEYS[1], cjson.encode(row), 'KEEPTTL')
  return {'granted', now, cjson.encode(row), now + lease}
end

if row.state == 'open' then
  if row.until_ms > now then return {'wait', now, cjson.encode(row), row.until_ms} end
  row.state, row.gen, row.nonce = 'half-open', row.gen + 1, ticket
  row.successes, row.earned, row.leases, row.doubters, row.eager = 0, 0, {}, {}, nil
  row.leases[ticket] = now + lease
  return {'granted', now, write(row, now, channel), now + lease}
end
if row.state ~= 'half-open' then return {'lost', now, cjson.encode(row), 0} end
local alive, count = living(row.leases, now)
local most = permits * 2 ^ math.min(row.earned or 0, doublings)
if count >= most then
  local first = math.huge
  for _, ends in pairs(alive) do first = math.min(first, ends) end
  return {'wait', now, cjson.encode(row), first}
end
alive[ticket] = now + lease
row.leases = alive
redis.call('SET', KEYS[1], cjson.encode(row), 'KEEPTTL')
return {'granted', now, cjson.encode(row), now + lease}
