-- What became of leases. ARGV: channel, generation, lease ms, a list of {ticket, what, source, ms}.
-- What: worked, free, earned, renewed, doubted, or eager (an eager probe has ended: in half-open, if it names a
-- source, it worked and lifts the doubt of it; else without success, or with one that the next state tells).
local channel, generation, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local row, newer = read(KEYS[1])
if newer then return {'newer', now, ''} end
if not row then return {'unknown', now, ''} end
if row.gen ~= generation then return {'lost', now, cjson.encode(row)} end
local leases, told = living(row.leases, now), false
for _, entry in ipairs(cjson.decode(ARGV[4])) do
  local ticket, what, source = entry[1], entry[2], entry[3]
  if what == 'eager' then
    if row.eager and row.eager.ticket == ticket then
      if source ~= '' and row.state == 'half-open' and row.eager.ends > now then
        row.successes, row.earned, told = (row.successes or 0) + 1, (row.earned or 0) + 1, true
        if row.doubters then row.doubters[source] = nil end
      end
      row.eager.ends = 0
    end
  elseif leases[ticket] then
    if what == 'renewed' then
      leases[ticket] = now + lease
    elseif what == 'earned' then
      leases[ticket] = now + lease
      row.earned = (row.earned or 0) + 1
      told = true
    else
      leases[ticket] = nil
      told = true
      if what == 'worked' then
        row.successes = (row.successes or 0) + 1
        if source ~= 'earned' then row.earned = (row.earned or 0) + 1 end
      elseif what == 'doubted' then
        row.doubters = row.doubters or {}
        row.doubters[source] = now + entry[4]
      end
    end
  end
end
row.leases = leases
if told then return {'done', now, write(row, now, channel)} end
redis.call('SET', KEYS[1], cjson.encode(row), 'KEEPTTL')
return {'done', now, cjson.encode(row)}
