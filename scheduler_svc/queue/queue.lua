--[[
Every state change of the queue, one script each. Redis 6.2 or newer.

This file is split at the lines that begin with "--@"; the section "common" is put in
front of every other one. A script touches only the keys that it is given in KEYS;
all keys of a shard (a model) begin with "ss:{model}:" and so share one cluster slot.

  queue           zset    id -> score, lowest first; the jobs that wait
  jobs            zset    id -> arrival, every job that is remembered
  ended           zset    id -> when it ended
  deadlines       zset    id -> deadline, of jobs that have one and have not ended
  workers         zset    worker id -> when its lease expires (ms)
  job:ID          hash    spec (JSON), prompt (u32s), n, arrival, deadline, idem (digest);
                          open (outputs that have not ended), fN (finish of output N),
                          claim ("worker:epoch" that holds it or last held it),
                          fingerprint (of the model its output is from), ended (when)
  log:ID:N        string  tokens of output N, little-endian u32 each
  lp:ID:N         list    log-probabilities of output N, one entry for each token
  idem:DIGEST     string  job id; DIGEST is of tenant and idempotency key
  lease:WORKER    hash    epoch, holder, expires (ms), info (JSON), fingerprint
  claims:WORKER   zset    id -> score it had in the queue; what the lease's holder runs
  rings           string  number of the last doorbell entry
  bell            stream  doorbell; entry "N-0" holds one field: what happened
                          ("queued", "moved", "ended") and the job ids, NUL between them

A job is queued while it is in queue, running while it is in a claims set, and ended
for good once its hash has "ended". Times are Redis's own; job times are seconds with
six decimals. A script that needs a lease compares epochs, never times, and answers nil
where the lease has another one: the caller is fenced off and nothing was changed.
Every script may be sent again after a lost answer.
]]

--@ common
local function time_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function seconds(us)
  return string.format('%.6f', us / 1000000)
end

-- The numbers of the entries have no gaps, so a reader sees what was trimmed.
local function ring(bell, rings, kind, ids)
  local number = redis.call('INCR', rings)
  redis.call('XADD', bell, 'MAXLEN', '~', 1024, number .. '-0', kind, table.concat(ids, '\0'))
end

-- Puts every claimed job back to where it stood in the queue.
local function give_back(claims, queue, bell, rings)
  local claimed = redis.call('ZRANGE', claims, 0, -1, 'WITHSCORES')
  local ids = {}
  for i = 1, #claimed, 2 do
    redis.call('ZADD', queue, claimed[i + 1], claimed[i])
    ids[#ids + 1] = claimed[i]
  end
  if #ids > 0 then
    redis.call('DEL', claims)
    ring(bell, rings, 'queued', ids)
  end
end

-- The epoch after `stored`: later than every one before, even if the clock went back.
local function next_epoch(stored, now_us)
  return string.format('%.0f', math.max(now_us, (tonumber(stored) or 0) + 1))
end

--@ submit
-- KEYS  job queue jobs deadlines bell rings [idem]
-- ARGV  id, most queued jobs, seconds to add to the score, seconds until the deadline
--       (0: none), digest, n, spec, prompt
-- Answers {id, 1 if an idempotency key matched else 0}, nil where the queue is full.
local known = KEYS[7] and redis.call('GET', KEYS[7])
if known and known ~= ARGV[1] then return {known, 1} end
if redis.call('EXISTS', KEYS[1]) == 1 then return {ARGV[1], 0} end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[2]) then return false end
local id, now = ARGV[1], time_us()
local arrival = seconds(now)
redis.call('HSET', KEYS[1], 'arrival', arrival, 'idem', ARGV[5], 'n', ARGV[6],
  'open', ARGV[6], 'spec', ARGV[7], 'prompt', ARGV[8])
if tonumber(ARGV[4]) > 0 then
  local deadline = seconds(now + ARGV[4] * 1000000)
  redis.call('HSET', KEYS[1], 'deadline', deadline)
  redis.call('ZADD', KEYS[4], deadline, id)
end
if KEYS[7] then redis.call('SET', KEYS[7], id) end
redis.call('ZADD', KEYS[2], seconds(now + ARGV[3] * 1000000), id)
redis.call('ZADD', KEYS[3], arrival, id)
ring(KEYS[5], KEYS[6], 'queued', {id})
return {id, 0}

--@ acquire
-- KEYS  lease claims queue workers bell rings
-- ARGV  worker, holder, ttl_ms, info
-- Takes a lease that is free, expired or the holder's own; what was claimed under it
-- waits again. Answers the new epoch, nil where another one holds it.
local lease = redis.call('HMGET', KEYS[1], 'epoch', 'holder', 'expires')
local now = time_us()
local held = lease[2] and lease[2] ~= '' and lease[2] ~= ARGV[2]
if held and tonumber(lease[3]) > now / 1000 then return false end
local epoch = next_epoch(lease[1], now)
local expires = string.format('%.0f', now / 1000 + ARGV[3])
redis.call('HSET', KEYS[1], 'epoch', epoch, 'holder', ARGV[2], 'expires', expires,
  'info', ARGV[4])
redis.call('PERSIST', KEYS[1])
redis.call('ZADD', KEYS[4], expires, ARGV[1])
give_back(KEYS[2], KEYS[3], KEYS[5], KEYS[6])
return epoch

--@ renew
-- KEYS  lease workers
-- ARGV  worker, epoch, ttl_ms
-- Answers 1. A lease that expired but was not taken is renewed like any other.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then return false end
local expires = string.format('%.0f', time_us() / 1000 + ARGV[3])
redis.call('HSET', KEYS[1], 'expires', expires)
redis.call('ZADD', KEYS[2], expires, ARGV[1])
return 1

--@ vacate
-- KEYS  lease claims queue workers bell rings
-- ARGV  worker, epoch (empty: whatever it is), grace_ms
-- Frees a lease: its holder's wish (epoch given), or because it expired more than
-- grace_ms ago and nobody took it. What was claimed waits again; the epoch is raised and
-- remembered for a week. Answers 1, nil where neither holds.
local lease = redis.call('HMGET', KEYS[1], 'epoch', 'expires')
local now = time_us()
if ARGV[2] ~= '' then
  if lease[1] ~= ARGV[2] then return false end
elseif (tonumber(lease[2]) or 0) + ARGV[3] > now / 1000 then
  return false
end
redis.call('HSET', KEYS[1], 'epoch', next_epoch(lease[1], now), 'holder', '', 'expires', 0)
redis.call('EXPIRE', KEYS[1], 604800)
redis.call('ZREM', KEYS[4], ARGV[1])
give_back(KEYS[2], KEYS[3], KEYS[5], KEYS[6])
return 1

--@ claim
-- KEYS  lease claims queue, then the job of every candidate
-- ARGV  worker, epoch, fingerprint, most jobs to claim, then the candidates' ids
-- Which jobs are first is known only after a look at the queue, and keys must be named
-- beforehand: the caller looks, names the candidates in order, and this script decides
-- again. A job with output under another fingerprint is passed over. A candidate that
-- this lease holds already is answered again: the first answer was lost.
-- Answers for every claimed job {id, spec, prompt, arrival, deadline, fingerprint}.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then return false end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[3])
local mark, room, claimed = ARGV[1] .. ':' .. ARGV[2], tonumber(ARGV[4]), {}
for i = 5, #ARGV do
  local id, key = ARGV[i], KEYS[i - 1]
  local ours = redis.call('ZSCORE', KEYS[2], id)
  local score = not ours and room > 0 and redis.call('ZSCORE', KEYS[3], id)
  if ours or score then
    local job = redis.call('HMGET', key, 'spec', 'prompt', 'arrival', 'deadline',
      'fingerprint')
    if score and not job[1] then
      redis.call('ZREM', KEYS[3], id)
    elseif score and (not job[5] or job[5] == ARGV[3]) then
      redis.call('ZREM', KEYS[3], id)
      redis.call('ZADD', KEYS[2], score, id)
      redis.call('HSET', key, 'claim', mark)
      ours = score
    end
    if ours then
      room = room - 1
      claimed[#claimed + 1] = {id, job[1], job[2], job[3], job[4], job[5]}
    end
  end
end
return claimed

--@ requeue
-- KEYS  lease claims queue bell rings, then the job of every id
-- ARGV  epoch, then the ids
-- Gives claimed jobs back; ids that are not claimed are ignored. Answers how many it was.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return false end
local ids = {}
for i = 2, #ARGV do
  local score = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if score then
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('ZADD', KEYS[3], score, ARGV[i])
    redis.call('HDEL', KEYS[i + 4], 'claim')
    ids[#ids + 1] = ARGV[i]
  end
end
if #ids > 0 then ring(KEYS[4], KEYS[5], 'queued', ids) end
return #ids

--@ claimed
-- KEYS  lease claims
-- ARGV  epoch
-- Answers the ids of the jobs that are claimed under the lease.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return false end
return redis.call('ZRANGE', KEYS[2], 0, -1)

--@ commit
-- KEYS  lease claims deadlines ended bell rings, then for every row: job, log, and lp
--       where the row has log-probabilities
-- ARGV  worker, epoch, length of a job key without its id,
--       rows: five u32 each (index, offset, tokens, log-probabilities, 1 if it ends),
--       the tokens of all rows, then for every row its log-probabilities and its finish
-- One step of a lane. Answers one i32 for each row, packed: -1 applied, -2 existed,
-- -3 ended (or not claimed by this lease any more), else the length of the log, which is
-- shorter than the row's offset.
local lease = redis.call('HMGET', KEYS[1], 'epoch', 'fingerprint')
if lease[1] ~= ARGV[2] then return false end
local APPLIED, EXISTED, ENDED = -1, -2, -3
local mark, prefix_length = ARGV[1] .. ':' .. ARGV[2], tonumber(ARGV[3])
local heads, tokens = ARGV[4], ARGV[5]
local call, unpack_head, pack_answer = redis.call, struct.unpack, struct.pack

local function end_output(job, field, finish)
  call('HSET', job, field, finish)
  if call('HINCRBY', job, 'open', -1) > 0 then return end
  local id, now = string.sub(job, prefix_length + 1), seconds(time_us())
  call('HSET', job, 'ended', now)
  call('ZADD', KEYS[4], now, id)
  call('ZREM', KEYS[2], id)
  call('ZREM', KEYS[3], id)
end

local answers, ids, last = {}, {}, nil
local key, arg, token = 7, 6, 1
for at = 1, #heads, 20 do
  local index, offset, num_tokens, num_logprobs, ends = unpack_head('<I4I4I4I4I4', heads, at)
  local job, log, field = KEYS[key], KEYS[key + 1], 'f' .. index
  local finish = ends == 1 and ARGV[arg + num_logprobs]
  local state = call('HMGET', job, 'claim', field)
  local length = call('STRLEN', log) / 4
  local skip, answer = length - offset, EXISTED
  if state[2] then
    local same = state[2] == finish and skip == num_tokens
    answer = same and EXISTED or ENDED
  elseif state[1] ~= mark then
    answer = ENDED
  elseif skip < 0 then
    answer = length
  elseif skip < num_tokens or finish then
    answer = APPLIED
    if length == 0 then call('HSETNX', job, 'fingerprint', lease[2]) end
    if skip < num_tokens then
      call('APPEND', log, string.sub(tokens, token + 4 * skip, token + 4 * num_tokens - 1))
      for i = skip, num_logprobs - 1 do call('RPUSH', KEYS[key + 2], ARGV[arg + i]) end
    end
    if finish then end_output(job, field, finish) end
    if job ~= last then
      ids[#ids + 1] = string.sub(job, prefix_length + 1)
      last = job
    end
  end
  answers[#answers + 1] = pack_answer('<i4', answer)
  key = key + (num_logprobs > 0 and 3 or 2)
  arg = arg + num_logprobs + ends
  token = token + 4 * num_tokens
end
if #ids > 0 then ring(KEYS[5], KEYS[6], 'moved', ids) end
return table.concat(answers)

--@ cancel
-- KEYS  job queue claims deadlines ended bell rings
-- ARGV  id, the job's claim as it was read ('' for none), finish
-- Ends every output that has not ended. The claims key depends on who holds the job: the
-- caller reads that first, and this script answers 'moved' where it has changed since.
-- Answers 1 if this ended the job, 0 if it had ended, nil if it is unknown.
local job = redis.call('HMGET', KEYS[1], 'n', 'ended', 'claim')
if not job[1] or job[2] then
  redis.call('ZREM', KEYS[4], ARGV[1])
  return job[1] and 0 or false
end
if (job[3] or '') ~= ARGV[2] then return 'moved' end
local now = seconds(time_us())
for index = 0, job[1] - 1 do
  redis.call('HSETNX', KEYS[1], 'f' .. index, ARGV[3])
end
redis.call('HSET', KEYS[1], 'ended', now, 'open', 0)
redis.call('ZADD', KEYS[5], now, ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
ring(KEYS[6], KEYS[7], 'ended', {ARGV[1]})
return 1

--@ forget
-- KEYS  job ended jobs, then the job's logs, lps and idem
-- ARGV  id
-- Drops everything of a job that has ended. Answers 1, 0 where another one has done it.
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('DEL', KEYS[1])
for i = 4, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1

--@ read
-- KEYS  for every request: job, log, and lp where its log-probabilities are wanted
-- ARGV  requests: four u32 each (index, offset, most tokens to answer, 1 if
--       log-probabilities are wanted)
-- Answers {heads, tokens, then every request's log-probabilities and finish}. heads has
-- three i32 for each request: number of tokens (-1: no such job), of log-probabilities,
-- and 1 if the output has ended and this is all of it; tokens are those of all requests.
local heads, tokens, key = {}, {}, 1
local answer = {'', ''}
for at = 1, #ARGV[1], 16 do
  local index, offset, most, wanted = struct.unpack('<I4I4I4I4', ARGV[1], at)
  local job = redis.call('HMGET', KEYS[key], 'n', 'f' .. index)
  local last = offset + most - 1
  local text = job[1] and redis.call('GETRANGE', KEYS[key + 1], 4 * offset, 4 * last + 3) or ''
  local entries = {}
  if wanted == 1 then entries = redis.call('LRANGE', KEYS[key + 2], offset, last) end
  for _, entry in ipairs(entries) do answer[#answer + 1] = entry end
  local ended = job[2] and #text < 4 * most
  if ended then answer[#answer + 1] = job[2] end
  heads[#heads + 1] = struct.pack('<i4i4i4', job[1] and #text / 4 or -1, #entries,
    ended and 1 or 0)
  tokens[#tokens + 1] = text
  key = key + 2 + wanted
end
answer[1], answer[2] = table.concat(heads), table.concat(tokens)
return answer

--@ look
-- KEYS  queue, then the job of every id
-- ARGV  the ids
-- Answers for every id nil if it is unknown, else {spec, n, arrival, deadline, ended,
-- bytes of prompt, 1 if it waits, then n finishes}. Not a transaction: those are refused
-- while memory is short, even for reading.
local answers = {}
for i, id in ipairs(ARGV) do
  local key = KEYS[i + 1]
  local job = redis.call('HMGET', key, 'spec', 'n', 'arrival', 'deadline', 'ended')
  if job[1] then
    job[6] = redis.call('HSTRLEN', key, 'prompt')
    job[7] = redis.call('ZSCORE', KEYS[1], id) and 1 or 0
    for index = 0, job[2] - 1 do
      job[8 + index] = redis.call('HGET', key, 'f' .. index)
    end
  end
  answers[i] = job[1] and job or false
end
return answers
