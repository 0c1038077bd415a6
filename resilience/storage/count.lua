-- Adds window counts of many breakers and returns the fleet's sums. KEYS: row and counts of each. ARGV: a list, then
-- the channel. The list's entries: {gen, c, f, w, fw, tail, tn, src, wc, ws}: generation; calls, failures and slow calls since the last time; weight of
-- the failures; weight and number of those behind the last success; sources; the window's calls and milliseconds.
local BUCKET, PAUSE_WINDOWS, SOLE = 250, 10, '*'
-- Successes of others may be on their way when a streak is seen: all are asked for what they have not told, and it is
-- judged when they have had time to, or when the ordinary pace has brought it.
local ASKED_AGAIN, ANSWERED, TOLD = 50, 50, 300
local now = now_ms()
local found = {}

local function add(document, batch)
  local bucket = math.floor(now / BUCKET)
  local last = document.t[#document.t]
  if not last or last[1] ~= bucket then
    last = {bucket, 0, 0, 0}
    table.insert(document.t, last)
  end
  last[2], last[3], last[4] = last[2] + batch.c, last[3] + batch.f, last[4] + batch.w
  for _, source in ipairs(batch.src) do document.src[source] = now end
  if batch.f == batch.c then
    if document.s == 0 or now - document.at > PAUSE_WINDOWS * batch.ws then
      document.s, document.sn, document.ss, document.from = 0, 0, {}, now
    end
    document.s, document.sn = document.s + batch.fw, document.sn + batch.f
    for _, source in ipairs(batch.src) do document.ss[source] = now end
  else
    document.s, document.sn, document.ss, document.from = batch.tail, batch.tn, {}, now
    if batch.tail > 0 then for _, source in ipairs(batch.src) do document.ss[source] = now end end
  end
  if batch.f > 0 then document.at = now end
end

local function ask(document)
  local asked = document.asked or 0
  if document.sn < 1 or asked >= document.from or now - asked < ASKED_AGAIN then return end
  document.asked = now
  redis.call('PUBLISH', ARGV[2], cjson.encode({v = VERSION, now = now, ask = 'counts'}))
end

local function ripe(document)
  local asked = document.asked or 0
  if asked >= document.from and now - asked >= ANSWERED then return 1 end
  return now - document.from >= TOLD and 1 or 0
end

local function corroborated(sources, since)
  local count = 0
  for source, at in pairs(sources) do
    if at >= since then
      if source == SOLE then return 1 end
      count = count + 1
    end
  end
  return count > 1 and 1 or 0
end

for index, batch in ipairs(cjson.decode(ARGV[1])) do
  local row_key, key = KEYS[2 * index - 1], KEYS[2 * index]
  local row, newer = read(row_key)
  if newer or (row and (row.gen ~= batch.gen or row.state ~= 'closed')) then
    found[index] = {0, 0, 0, 0, 0, 0, 0, 0}
  else
    local raw = redis.call('GET', key)
    local ok, document = pcall(cjson.decode, raw or '')
    if not ok or type(document) ~= 'table' or type(document.t) ~= 'table' then
      document = {t = {}, src = {}, s = 0, sn = 0, ss = {}, from = now, at = 0}
    end
    if batch.c > 0 then add(document, batch) end
    if batch.f > 0 then ask(document) end
    local calls, failures, slow, kept = 0, 0, 0, {}
    for at = #document.t, 1, -1 do
      local entry = document.t[at]
      if calls >= batch.wc or now - entry[1] * BUCKET > batch.ws then break end
      calls, failures, slow = calls + entry[2], failures + entry[3], slow + entry[4]
      table.insert(kept, 1, entry)
    end
    document.t = kept
    if batch.c > 0 then
      redis.call('SET', key, cjson.encode(document), 'PX', math.floor(PAUSE_WINDOWS * batch.ws) + 1000)
    end
    found[index] = {
      calls, failures, slow, corroborated(document.src, now - batch.ws),
      -- In tenths: a script's numbers leave as whole ones.
      math.floor(document.s * 10 + 0.5), document.sn, corroborated(document.ss, 0), ripe(document),
    }
  end
end
return {now, found}
