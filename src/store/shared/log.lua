-- The shared log of one pool: every write to it, and every read that must see one moment.
--
-- What it keeps (all keys share one hash tag, so that a cluster keeps them together):
--   KEYS[1] head    hash    format, id, number, seq, micros, offset, run, phase, snapshot, up, v:<replica>, x:<replica>
--   KEYS[2] log     stream  entry <seq>-0 with one field, the frame
--   KEYS[3] snap    string  the state after entry head.snapshot; opaque
--   KEYS[4] beats   hash    replica -> "<micros> <payload>"
--   KEYS[5] gather  hash    what replicas brought while an epoch was being settled
--   KEYS[6]         the channel on which new frames are published; not a key
--
-- Numbers in Lua are doubles, so nothing here counts in nanoseconds: microseconds since the Unix
-- epoch stay below 2^53 until the year 2255, sequence and replica numbers for longer.
--
-- Time. `at` is server time plus an offset. The caller claims that it is at least LEAST and at most
-- MOST by its own monotonic clock and what it has seen of the log. Inside, the server's clock is
-- taken; outside, it has stepped (or the call was long on its way), LEAST is taken, which is never
-- ahead of the truth, and the offset is set anew. It never runs backwards.
--
-- Epochs. The server's process is known by its run id. If the head was written under another one,
-- or is not there, or is behind what a caller has seen, then the end of the log may be lost: the
-- phase becomes `gather`, every replica says how far it is and brings its state (`reassert`), the
-- most advanced one is taken, and a new epoch opens. Nothing is appended meanwhile.

local FORMAT = '1'
-- Frames in one reply. More would hold up the server's other callers.
local PAGE = 512
-- Entries that stay behind the snapshot, for replicas that are a little late.
local KEEP = 1024
-- Entries after the snapshot: above it nothing is appended until there is a newer snapshot.
local MOST_ENTRIES = 65536
-- Seconds for which an unused pool stays: longer than the longest window (a day), with room.
local RETAIN = 604800
-- Microseconds for which the last number of a replica that went is remembered.
local REMEMBER = 3600000000

local OP, REPLICA, ID = ARGV[2], ARGV[3], ARGV[4]
local SEEN, LEAST, MOST = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local NONCE, GRACE = ARGV[8], tonumber(ARGV[9])
local FIRST = 10

local function int(number) return string.format('%.0f', number) end

local function server_micros()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local names = {'format', 'id', 'number', 'seq', 'micros', 'offset', 'run', 'phase', 'snapshot', 'up', 'since'}
local head = {}
for index, value in ipairs(redis.call('HMGET', KEYS[1], unpack(names))) do
  head[names[index]] = value or nil
end
if head.format and head.format ~= FORMAT then
  return {'format', head.format, FORMAT}
end
if ARGV[1] ~= FORMAT then
  return {'format', FORMAT, ARGV[1]}
end

local now = server_micros()
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
local seq = tonumber(head.seq or 0)
local snapshot = tonumber(head.snapshot or 0)
local micros = tonumber(head.micros or 0)
local offset = tonumber(head.offset or 0)
-- Whether `micros` was ever stamped on something: before that it is no bound for anybody.
local certain = head.micros ~= nil
local before = seq
local frames = {}

-- The log's time now, and the offset that makes it so.
local function stamp()
  local at = now + offset
  if at < LEAST or at > MOST then at = LEAST end
  if at < micros then at = micros end
  micros, offset = at, at - now
end

local function frame(kind, replica, number, bytes)
  seq = seq + 1
  local line = kind .. ' ' .. int(seq) .. ' ' .. int(micros) .. ' ' .. replica .. ' ' .. int(number)
    .. ' ' .. #bytes .. '\n' .. bytes
  redis.call('XADD', KEYS[2], int(seq) .. '-0', 'f', line)
  frames[#frames + 1] = line
end

-- Appends what REPLICA's numbers show to be new; true if it was.
local function append(replica, last, number, bytes)
  if number <= last[replica] then return false end
  last[replica] = number
  frame('e', replica, number, bytes)
  return true
end

local function last_number(replica)
  return tonumber(redis.call('HGET', KEYS[1], 'v:' .. replica) or 0)
end

local function write(...)
  redis.call('HSET', KEYS[1], 'format', FORMAT, 'seq', int(seq), 'offset', int(offset), ...)
  if certain then redis.call('HSET', KEYS[1], 'micros', int(micros)) end
end

-- Tells the followers what was appended, or that an epoch ends or begins.
local function publish()
  redis.call('PUBLISH', KEYS[6], head.phase .. ' ' .. (head.id or '') .. ' ' .. (head.number or '0')
    .. '\n' .. table.concat(frames))
end

local function reply(status, ...)
  return {status, head.id or '', tonumber(head.number or 0), before, micros, snapshot, seq, ...}
end

local function begin_gather()
  redis.call('DEL', KEYS[5])
  head.phase, head.since = 'gather', int(now)
  -- Who was alive when the head was written has something to say.
  for _, replica in ipairs(redis.call('HKEYS', KEYS[4])) do
    redis.call('HSET', KEYS[5], 'p:' .. replica, '1')
  end
  write('phase', 'gather', 'since', head.since, 'run', run, 'id', head.id or '', 'number', head.number or '0',
    'snapshot', int(snapshot))
  publish()
end

-- Microseconds until the gathering ends whoever is missing; 0 if nobody is.
local function remaining()
  local since = tonumber(head.since)
  -- The clock was set back: wait for the whole of it again.
  if now < since then
    since = now
    head.since = int(now)
    redis.call('HSET', KEYS[1], 'since', head.since)
  end
  local gathered = redis.call('HGETALL', KEYS[5])
  local missing, came = {}, 0
  for index = 1, #gathered, 2 do
    local kind, replica = string.sub(gathered[index], 1, 2), string.sub(gathered[index], 3)
    if kind == 'p:' then missing[replica] = true end
  end
  for index = 1, #gathered, 2 do
    local kind, replica = string.sub(gathered[index], 1, 2), string.sub(gathered[index], 3)
    if kind == 'd:' then came = came + 1; missing[replica] = nil end
  end
  if came > 0 and next(missing) == nil then return 0 end
  return math.max(0, since + GRACE - now)
end

-- Opens a new epoch on the most advanced state: that of the server, or one that was brought.
local function open()
  local best = redis.call('HMGET', KEYS[5], 'number', 'seq', 'snap', 'versions')
  local number = tonumber(head.number or 0)
  if best[1] then
    redis.call('DEL', KEYS[2])
    redis.call('SET', KEYS[3], best[3])
    seq, snapshot = tonumber(best[2]), tonumber(best[2])
    number = math.max(number, tonumber(best[1]))
    local fields = redis.call('HKEYS', KEYS[1])
    for _, field in ipairs(fields) do
      local kind = string.sub(field, 1, 2)
      if kind == 'v:' or kind == 'x:' then redis.call('HDEL', KEYS[1], field) end
    end
    for replica, last in string.gmatch(best[4], '(%x+):(%d+)') do
      redis.call('HSET', KEYS[1], 'v:' .. replica, last)
    end
  end
  head.id, head.number, head.phase, certain = NONCE, int(number + 1), 'open', true
  local gathered = redis.call('HGETALL', KEYS[5])
  local last, own = {}, {}
  for index = 1, #gathered, 2 do
    local field, value = gathered[index], gathered[index + 1]
    local replica, mine = string.match(field, '^o:(%x+):(%d+)$')
    if replica then
      own[#own + 1] = {replica, tonumber(mine), value}
      last[replica] = last[replica] or last_number(replica)
    end
    -- Everybody who is known begins alive: who does not come back is told to have gone in time.
    local known = string.match(field, '^[pd]:(%x+)$')
    if known then redis.call('HSET', KEYS[4], known, int(micros) .. ' ') end
  end
  table.sort(own, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  for _, entry in ipairs(own) do append(entry[1], last, entry[2], entry[3]) end
  for replica, mine in pairs(last) do redis.call('HSET', KEYS[1], 'v:' .. replica, int(mine)) end
  write('phase', 'open', 'id', head.id, 'number', head.number, 'run', run, 'snapshot', int(snapshot),
    'up', int(micros))
  redis.call('DEL', KEYS[5])
  publish()
  frames, before = {}, seq
end

-- What is in the log after SEEN: its frames (a page at most), and whether they are all there is.
-- nil if the first of them is gone.
local function missed(from)
  if from >= before then return {}, true end
  local rows = redis.call('XRANGE', KEYS[2], int(from + 1) .. '-0', int(before) .. '-0', 'COUNT', PAGE)
  if #rows == 0 or rows[1][1] ~= int(from + 1) .. '-0' then return nil, false end
  local found = {}
  for index, row in ipairs(rows) do found[index] = row[2][2] end
  return found, from + #found >= before
end

-- A head that is not there, was written by another process, or lags behind a caller of its epoch.
local lost = not head.format or head.run ~= run
  or (head.phase == 'open' and ID == head.id and SEEN > seq)
if lost then begin_gather() end
stamp()

if head.phase == 'gather' then
  if OP == 'reassert' then
    local peers, snap, versions = ARGV[FIRST], ARGV[FIRST + 1], ARGV[FIRST + 2]
    local number = tonumber(ARGV[FIRST + 3])
    -- A state of an older epoch is no beginning of this one's log; neither is one of its namesakes.
    local base_number, best = tonumber(head.number or 0), redis.call('HMGET', KEYS[5], 'number', 'seq')
    local is_base = number > base_number or (ID == head.id and SEEN > seq)
    local is_best = not best[1] or number > tonumber(best[1])
      or (number == tonumber(best[1]) and SEEN > tonumber(best[2]))
    if number > 0 and is_base and is_best then
      redis.call('HSET', KEYS[5], 'number', int(number), 'seq', int(SEEN), 'snap', snap, 'versions', versions)
    end
    redis.call('HSET', KEYS[5], 'd:' .. REPLICA, '1')
    for peer in string.gmatch(peers, '%x+') do redis.call('HSET', KEYS[5], 'p:' .. peer, '1') end
    for index = FIRST + 4, #ARGV, 2 do
      redis.call('HSET', KEYS[5], 'o:' .. REPLICA .. ':' .. ARGV[index], ARGV[index + 1])
    end
    -- Claims make the time certain.
    if LEAST > 0 then certain = true end
  end
  write()
  local left = remaining()
  if left > 0 then
    local came = redis.call('HEXISTS', KEYS[5], 'd:' .. REPLICA) == 1
    return reply((came or OP == 'load') and 'wait' or 'reassert', left)
  end
  open()
end

if OP == 'load' then
  local found, whole
  local from = snapshot
  found, whole = missed(from)
  if not found then
    -- A log that does not begin where the snapshot ends is lost, too (a key was evicted).
    begin_gather()
    return reply('wait', GRACE)
  end
  local fields, versions = redis.call('HGETALL', KEYS[1]), {}
  for index = 1, #fields, 2 do
    local replica = string.match(fields[index], '^v:(%x+)$')
    if replica then versions[#versions + 1] = replica .. ':' .. fields[index + 1] end
  end
  write()
  return reply('state', table.concat(versions, ' '), redis.call('GET', KEYS[3]) or '', found, whole and 1 or 0)
end

if OP == 'beat' then
  local payload, gone_after = ARGV[FIRST], tonumber(ARGV[FIRST + 1])
  local beats, newest = redis.call('HGETALL', KEYS[4]), 0
  for index = 1, #beats, 2 do
    newest = math.max(newest, tonumber(string.match(beats[index + 1], '^%d+')))
  end
  -- Nobody could beat while the server could not be reached: then nobody is late.
  local up = tonumber(head.up or 0)
  if micros - newest > gone_after / 2 then up = micros end
  redis.call('HSET', KEYS[4], REPLICA, int(micros) .. ' ' .. payload)
  redis.call('HDEL', KEYS[1], 'x:' .. REPLICA)
  local live, gone = {}, {}
  for index = 1, #beats, 2 do
    local replica = beats[index]
    local at, said = string.match(beats[index + 1], '^(%d+) (.*)$')
    local ago = micros - tonumber(at)
    if replica ~= REPLICA and micros - math.max(tonumber(at), up) > gone_after then
      gone[#gone + 1] = replica
    elseif replica ~= REPLICA then
      live[#live + 1] = {replica, ago, said}
    end
  end
  local extra = {}
  for _, replica in ipairs(gone) do
    redis.call('HDEL', KEYS[4], replica)
    frame('g', replica, last_number(replica), '')
    redis.call('HSET', KEYS[1], 'x:' .. replica, int(micros))
  end
  local fields = redis.call('HGETALL', KEYS[1])
  for index = 1, #fields, 2 do
    local replica = string.match(fields[index], '^x:(%x+)$')
    if replica and micros - tonumber(fields[index + 1]) > REMEMBER then
      redis.call('HDEL', KEYS[1], 'x:' .. replica, 'v:' .. replica)
    end
  end
  write('up', int(up))
  for index = 1, 4 do redis.call('EXPIRE', KEYS[index], RETAIN) end
  if #frames > 0 then publish() end
  return reply('live', live)
end

if OP == 'leave' then
  redis.call('HDEL', KEYS[4], REPLICA)
  redis.call('HSET', KEYS[1], 'x:' .. REPLICA, int(micros))
  write()
  return reply('left')
end

-- What follows needs to know which log it is about.
if ID ~= head.id then
  write()
  return reply('epoch')
end

if OP == 'reassert' then
  write()
  return reply('open')
end

if OP == 'snapshot' then
  local bytes = ARGV[FIRST]
  local newer = SEEN > snapshot and SEEN <= seq
  if newer then
    snapshot = SEEN
    redis.call('SET', KEYS[3], bytes)
    redis.call('XTRIM', KEYS[2], 'MINID', int(math.max(1, SEEN - KEEP + 1)))
  end
  write('snapshot', int(snapshot))
  return reply(newer and 'kept' or 'older')
end

-- OP == 'append': facts first, then, if CONDITIONAL, one entry that needs to be based on all before.
local found, whole = missed(SEEN)
if not found then
  write()
  return reply('trimmed')
end
local conditional, count = ARGV[FIRST] == '1', (#ARGV - FIRST) / 2
if not whole or (count > 0 and seq - snapshot > MOST_ENTRIES) then
  write()
  return reply(whole and 'full' or 'more', found)
end
local last = {[REPLICA] = last_number(REPLICA)}
local fresh, status = 0, 'appended'
for index = 1, count do
  local number, bytes = tonumber(ARGV[FIRST + 2 * index - 1]), ARGV[FIRST + 2 * index]
  local again = number <= last[REPLICA]
  if conditional and index == count and SEEN < before and not again then
    status = 'behind'
  elseif append(REPLICA, last, number, bytes) and fresh == 0 then
    fresh = number
  end
end
if #frames > 0 then
  redis.call('HSET', KEYS[1], 'v:' .. REPLICA, int(last[REPLICA]))
  publish()
end
write()
return reply(status, found, fresh)
