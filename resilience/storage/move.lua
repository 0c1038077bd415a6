-- Compare-and-set of one transition. ARGV: channel, mode (move, force or extend), expected generation and state, row.
-- The row comes with times relative to now (`_in`) and leaves with the server's (`_ms`).
local channel, mode, expected, state = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local new = cjson.decode(ARGV[5])
local now = now_ms()
local row, newer = read(KEYS[1])
if newer then return {'newer', now, ''} end

new.since_ms = now + new.since_in
new.until_ms = now + new.until_in
new.first_since_ms = now + new.first_since_in
new.remembers_ms = now + new.remembers_in
for _, name in ipairs({'since_in', 'until_in', 'first_since_in', 'remembers_in'}) do new[name] = nil end
for source, left in pairs(new.doubters or {}) do new.doubters[source] = now + left end

if mode == 'extend' then
  -- A later end of the same opening; never an earlier one.
  if row and row.gen == expected and row.state == 'open' and new.until_ms > row.until_ms then
    row.until_ms = new.until_ms
    return {'done', now, write(row, now, channel)}
  end
  return {'lost', now, row and cjson.encode(row) or ''}
end

-- A store that forgot (restarted, restored) has an older generation or none: the process that knows more writes.
local fits = not row or row.gen < expected or (row.gen == expected and row.state == state)
if mode ~= 'force' and not fits then
  if row.state == 'open' and new.state == 'open' and row.gen == expected + 1 and new.until_ms > row.until_ms then
    row.until_ms = new.until_ms  -- two processes tripped at once: one opening, the later end
    return {'lost', now, write(row, now, channel)}
  end
  return {'lost', now, cjson.encode(row)}
end
new.gen = math.max(expected, row and row.gen or 0) + 1
new.leases = {}
redis.call('DEL', KEYS[2])
return {'done', now, write(new, now, channel)}
