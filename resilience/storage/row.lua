-- Put before every other script: reads rows, writes and tells them. A row is one breaker's shared state as JSON.
-- KEYS of every script that writes: 1 the row, 2 its window counts, 3 the index, 4 the revision.
local VERSION = 1

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- nil: nothing is known, or what stands there is no row. The second value says that a newer version wrote it.
local function read(key)
  local raw = redis.call('GET', key)
  if not raw then return nil, false end
  local ok, row = pcall(cjson.decode, raw)
  if not ok or type(row) ~= 'table' then return nil, false end
  if type(row.v) == 'number' and row.v > VERSION then return nil, true end
  if type(row.gen) ~= 'number' or type(row.state) ~= 'string' then return nil, false end
  return row, false
end

local DAY = 86400000
local KEPT = {closed = DAY / 24, isolated = 30 * DAY}

local function write(row, now, channel)
  row.v = VERSION
  row.leases = row.leases or {}
  row.doubters = row.doubters or {}
  local ttl = KEPT[row.state] or DAY
  if row.until_ms and row.until_ms > now then ttl = ttl + (row.until_ms - now) end
  local raw = cjson.encode(row)
  redis.call('SET', KEYS[1], raw, 'PX', math.floor(ttl))
  local revision = redis.call('INCR', KEYS[4])
  redis.call('ZADD', KEYS[3], revision, row.id)
  redis.call('PEXPIRE', KEYS[3], 60 * DAY)
  redis.call('PEXPIRE', KEYS[4], 60 * DAY)
  redis.call('PUBLISH', channel, cjson.encode({v = VERSION, now = now, rev = revision, row = raw}))
  return raw
end

-- Leases that have not ended, and how many there are.
local function living(leases, now)
  local alive, count = {}, 0
  for ticket, ends in pairs(leases or {}) do
    if type(ends) == 'number' and ends > now then
      alive[ticket] = ends
      count = count + 1
    end
  end
  return alive, count
end
