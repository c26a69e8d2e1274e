--[[
Every state change of the queue, one script each. Redis 6.2 or newer.

This file is split at the lines that begin with "--@"; the section "common" is put in
front of every other one. A script touches only the keys that it is given in KEYS;
all keys of a shard (a model) begin with "ss:{model}:" and so lie in one cluster slot.

  queue           zset    id -> rank, lowest first; the jobs that wait
  jobs            zset    id -> turn, every job that is remembered
  ahead           string  by how much turns are ahead of arrivals (us), because the clock went
                          back while jobs were there
  ended           zset    id -> when it ended
  unweighed       list    ids of jobs that ended and whose memory was not measured yet
  ended_bytes     string  memory of the jobs that ended, as far as it was measured
  deadlines       zset    id -> deadline, of jobs that have one and have not ended
  workers         zset    worker id -> when its lease expires (ms)
  schedulers      zset    scheduler's name -> when it last said that it lives (ms)
  reaches         hash    scheduler's name -> the workers that answer it (JSON list)
  job:ID          hash    spec (JSON), prompt (u32s), n, arrival, deadline, within (seconds
                          from arrival to deadline), idem (digest), tenant, priority,
                          max_tokens; turn (arrival as it ranks, where that is another time);
                          open (outputs that have not ended), fN (finish of output N),
                          claim ("worker:epoch" that holds it or last held it),
                          started (when a lane first claimed it),
                          fingerprint (of the model its output is from), ended (when), bytes
                          (of memory, once it has ended and was weighed),
                          need (tokens that a worker must have room for), edge (what the edge
                          that took the job keeps with it, for its own answers), restarts (how often
                          it was begun anew), cached (how many tokens of the prompt were in
                          the cache when the output was begun that came to a token first),
                          strikes (what it is accused of, see suspects.py), problem (how the
                          last worker that it was at crashed), losses, lost_at (how often
                          a worker was lost with it, and how many tokens it had then),
                          cleared (when it was last found to break nothing),
                          share (what is reserved, under the policy "fair": three doubles,
                          the tenant's weight, the expected cost of each output and that of
                          the prompt, then the tenant), weight (in place of the tenant's, of an
                          API key that has one), quota (what was taken from a key's: two doubles,
                          tokens for each output and the bound of its bucket, then the key's id),
                          bounds (that key's, as the script "submit" got them), request (digest
                          of what was asked, where there is an idempotency key)
  log:ID:N        string  tokens of output N, little-endian u32 each
  lp:ID:N         list    log-probabilities of output N, one entry for each token
  followers:ID    zset    replica -> until when (ms) its clients follow the job, of those jobs
                          that end when nobody does
  idem:DIGEST     string  job id, NUL, digest of the request; DIGEST is of tenant and
                          idempotency key. (Versions before stored the id alone.)
  epoch           string  the highest epoch that was given out, of any worker
  lease:WORKER    hash    epoch, holder, expires (ms), ttl (ms), info (JSON), fingerprint,
                          step_us (how long a step takes there; 0 while that is not known),
                          used (KV blocks that sequences hold there),
                          incarnation (of the worker, '' where it was not told, or the lane
                          failed: then nobody goes on with what is claimed),
                          order (the order's version when it was acquired)
  claims:WORKER   zset    id -> rank; what the lease's holder runs
  suspects        zset    id -> strikes, of jobs that have some
  canary          string  the worker at which suspects are tried, for as long as it has a lease
  stranded        zset    id -> when a lane first passed it over for good (s); jobs that the
                          lane's worker cannot run, however long they wait
  order           hash    the order that all submits rank by, whoever sends them: policy,
                          wait, remaining, priority (weights), weight:TENANT (of those that
                          have one), terms (all of it as text, to compare), version (grows
                          when jobs are ranked anew)
  unranked        zset    id -> rank; live jobs whose rank is of an earlier order
  lengths         hash    "all" or "of:TENANT" -> how many outputs ended by themselves and
                          their tokens (two doubles; the counts fade, see order.py)
  pace            hash    how fast jobs end while others wait: jobs that did, s (how long that
                          took; both fade), at (us, when the last one ended), waiting (1 if
                          others waited then)
  counters        hash    tenant -> virtual tokens it was charged, under "fair"
  vtime           string  virtual time, under "fair": claims move it, see order.py
  quotas          hash    API key's id -> four doubles: requests and tokens that are left of a
                          minute's, when that was (s), jobs that have not ended
  watched         string  there while somebody looks at the live page; expires
  live            stream  what lanes show meanwhile, the newest only (JSON); expires
  rings           string  number of the last doorbell entry
  bell            stream  doorbell; entry "N-0" holds one field: what happened
                          ("queued", "moved", "ended") and the job ids, NUL between them; after
                          an empty one those again of which an output was ended by its lane,
                          or ("queued") the worker that was handed over with its claims
  shelf:KIND      zset    id -> when it was put there (s); records of an edge (files, batches)
  shelf:KIND:open set     ids of those that somebody is to work on
  record:KIND:ID  hash    record (JSON), version (grows with each change)
  data:KIND:ID    string  what belongs to it
  lines:KIND:ID   hash    number -> what came of a line of it; "#good" and "#bad" count them
  minder:KIND:ID  string  who works on it now; expires

Of no shard, for workers of all models; both expire when nobody writes:

  ss:registry:{workers}:told
                  hash    worker id -> when it was told (ms), who drives it ('' nobody), what a
                          scheduler knows of it (JSON), newlines between
  ss:registry:{workers}:seen
                  zset    worker id -> when it last answered a scheduler (ms)

A job is queued while it is in queue, running while it is in a claims set, and ended
for good once its hash has "ended". Times are Redis's own; job times are seconds with
six decimals. That clock may go back: no stored time is believed that lies further ahead
than it could have been written. A script that needs a lease compares epochs, never times, and answers nil
where the lease has another one: the caller is fenced off and nothing was changed.
Every script may be sent again after a lost answer. order.py has the rules of ranks,
lengths and counters, and is the twin of what is done with them here.
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

-- A number as text that loses nothing.
local function exact(number)
  return string.format('%.17g', number)
end

local PROMPT_TOKEN_COST, OUTPUT_TOKEN_COST = 1, 2
local MAX_OUTPUTS = 16

-- How many outputs a job has, by its "n"; as many as there may be where its record is broken.
local function num_outputs(n)
  return math.min(tonumber(n) or MAX_OUTPUTS, MAX_OUTPUTS)
end

-- Of suspects.py.
local ALONE, GUILTY, MAX_LOSSES = 100, 101, 3

-- Lengths.estimate of order.py; and whether it rests on outputs that finished.
local function estimate(lengths, tenant, max_tokens)
  for _, known in ipairs(redis.call('HMGET', lengths, 'of:' .. tenant, 'all')) do
    if known then
      local count, total = struct.unpack('<dd', known)
      if count >= 8 then return math.max(1, math.min(max_tokens, total / count)), true end
    end
  end
  return math.max(1, max_tokens), false
end

-- What was reserved for an output that ends and was not used. One without a token of a job
-- that no lane has held has cost nothing.
local function unused(reserved, num_tokens, was_held)
  local weight, expected, cost = struct.unpack('<ddd', reserved)
  if num_tokens == 0 and not was_held then cost = 0 end
  return math.max(0, expected - (cost + num_tokens * OUTPUT_TOKEN_COST)) / weight
end

-- Adds to the counter of the tenant who has reserved, in `due`: read once, to be stored once.
local function add_to_counter(counters, due, reserved, amount)
  if amount == 0 then return end
  local tenant = string.sub(reserved, 25)
  due[tenant] = (due[tenant] or tonumber(redis.call('HGET', counters, tenant)) or 0) + amount
end

local function store_counters(counters, due)
  for tenant, counter in pairs(due) do
    redis.call('HSET', counters, tenant, exact(counter))
  end
end

-- Gives a key back what was taken for an output, but for what it used; or the place of a job.
local function give_back_quota(quotas, quota, used, num_jobs)
  local expected, most = struct.unpack('<dd', quota)
  local id = string.sub(quota, 17)
  local known = redis.call('HGET', quotas, id)
  if not known then return end
  local requests, tokens, at, jobs = struct.unpack('<dddd', known)
  if used and most > 0 then tokens = math.min(most, tokens + expected - used) end
  redis.call('HSET', quotas, id,
    struct.pack('<dddd', requests, tokens, at, math.max(0, jobs - num_jobs)))
end

-- The rank in the stored order of a job that asks for so much (time_rank and TokenCounters.submit
-- of order.py), and the order's terms. `from`: the keys order, lengths, counters and vtime.
local function rank_for(tenant, turn, max_tokens, priority, from)
  local order, lengths, counters, vtime = unpack(from)
  local terms = redis.call('HMGET', order, 'policy', 'wait', 'remaining', 'priority',
    'weight:' .. tenant)
  if terms[1] == 'fcfs' then return turn, terms end
  if terms[1] ~= 'fair' then
    local remaining = estimate(lengths, tenant, max_tokens)
    return turn - (terms[4] * priority + terms[3] / remaining) / terms[2], terms
  end
  local counter = tonumber(redis.call('HGET', counters, tenant)) or 0
  return math.max(counter, tonumber(redis.call('GET', vtime)) or 0), terms
end

-- The rank of a stored job; under "fair" what it is expected to cost is reserved with it.
-- Jobs of a version that knew no ranks lack tenant, max_tokens and priority.
local function rank_of(job, order, lengths, counters, vtime)
  local asked = redis.call('HMGET', job, 'tenant', 'max_tokens', 'arrival', 'priority', 'open',
    'turn', 'weight')
  local tenant, max_tokens = asked[1] or '', tonumber(asked[2]) or 1
  local rank, terms = rank_for(tenant, tonumber(asked[6] or asked[3]), max_tokens,
    tonumber(asked[4]) or 0, {order, lengths, counters, vtime})
  if terms[1] ~= 'fair' then
    redis.call('HDEL', job, 'share')
    return rank
  end
  local prompt = redis.call('HSTRLEN', job, 'prompt') / 4 * PROMPT_TOKEN_COST
  local output = estimate(lengths, tenant, max_tokens) * OUTPUT_TOKEN_COST
  local weight = tonumber(asked[7]) or tonumber(terms[5]) or 1
  local expected = prompt + output
  redis.call('HSET', counters, tenant, exact(rank + asked[5] * expected / weight))
  redis.call('HSET', job, 'share', struct.pack('<ddd', weight, expected, prompt) .. tenant)
  return rank
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

-- The epoch after `stored`: later than every one before, even if the clock went back, and
-- even if what was known of the worker is forgotten.
local function next_epoch(highest, stored, now_us)
  local last = math.max(tonumber(stored) or 0, tonumber(redis.call('GET', highest)) or 0)
  local epoch = string.format('%.0f', math.max(now_us, last + 1))
  redis.call('SET', highest, epoch)
  return epoch
end

-- Whether a job's deadline has passed: what is late by nothing is late.
local function is_past(deadline, now_us)
  return now_us >= deadline * 1000000
end

-- Whether a lease that expires then is good now. Further ahead than its time to live is no
-- time that was written by a clock that this one goes on from. (Times are rounded to ms.)
local function is_good(expires, ttl, now_us)
  local left = (tonumber(expires) or 0) - now_us / 1000
  return left > 0 and left <= tonumber(ttl) + 1
end

--@ submit
-- KEYS  job queue jobs deadlines bell rings order lengths counters vtime ended ahead pace stranded
--       quotas suspects [idem]
-- ARGV  id, most queued jobs, seconds until the deadline (0: none), digest, n, spec, prompt,
--       tenant, priority, max_tokens, digest of the request, need, edge, API key's id ('' for
--       none), its weight (0: the tenant's), its bounds of requests and tokens a minute and of
--       jobs (0: none, -1: not known), seconds that it takes at least once it is begun (-1: it is taken whatever
--       its deadline; -2: and whatever its key's bounds, against which it counts all the same),
--       then names and values of what its record had where it was stored before
-- Answers {id, 1 if an idempotency key matched, 2 if it did but another request, else 0, and
-- of a key with bounds what is left of its requests and tokens}, nil where the queue is full,
-- 'order' where none is stored, {id, -1, 0 requests 1 tokens 2 jobs, seconds, left, left}
-- where a bound is reached for so long, {id, -2, seconds of waiting, seconds from its begin to
-- its end} where these are expected to be more than it has.

-- Who stored a job again first may have known less of it: it gets the rest. Its place it keeps.
local function complete(id)
  if ARGV[13] ~= '' then redis.call('HSETNX', KEYS[1], 'edge', ARGV[13]) end
  local is_begun = redis.call('HEXISTS', KEYS[1], 'fingerprint') == 1
  if is_begun or not redis.call('ZSCORE', KEYS[2], id) then return end
  for i = 20, #ARGV, 2 do
    if ARGV[i] ~= 'arrival' and ARGV[i] ~= 'turn' then
      redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    end
    if ARGV[i] == 'strikes' then redis.call('ZADD', KEYS[16], ARGV[i + 1], id) end
  end
end

local known = KEYS[17] and redis.call('GET', KEYS[17])
if known then
  local known_id, request = string.match(known, '^(%Z+)%z?(.*)$')
  if known_id ~= ARGV[1] then
    return {known_id, (request == '' or request == ARGV[11]) and 1 or 2}
  end
end
-- What a call that failed in the middle has left is not there yet: this is written last.
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  complete(ARGV[1])
  return {ARGV[1], 0}
end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[2]) then return false end
if redis.call('EXISTS', KEYS[7]) == 0 then return 'order' end
local id, now = ARGV[1], time_us()
local arrival = seconds(now)

-- When its turn is: its arrival, but never before that of a job that was there already. What
-- a clock that went back is behind is kept, so that waiting goes on to count, until no job
-- is left to be compared with.
local function turn_of(now)
  local is_idle = redis.call('ZCARD', KEYS[3]) == redis.call('ZCARD', KEYS[11])
  local stored = redis.call('GET', KEYS[12])
  local ahead = not is_idle and tonumber(stored) or 0
  local newest = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
  local behind = is_idle and 0 or math.floor((newest or 0) * 1000000 + 0.5) - (now + ahead)
  if behind > 0 then
    ahead = ahead + behind + 1
    redis.call('SET', KEYS[12], string.format('%.0f', ahead))
  elseif is_idle and stored then
    redis.call('DEL', KEYS[12])
  end
  return seconds(now + ahead)
end

local turn = turn_of(now)

-- How long it may have to wait, and how long it is then expected to take, by how fast jobs end
-- while others wait; nothing while too few have. Ends are as good as independent: two standard
-- deviations more make one in fifty wait longer. What no lane can run is before nobody.
local function expected_s()
  local pace = redis.call('HMGET', KEYS[13], 'jobs', 's')
  local num_ended, busy_s = tonumber(pace[1]) or 0, tonumber(pace[2]) or 0
  if num_ended < 8 or busy_s <= 0 then return 0, tonumber(ARGV[19]) end
  local tenant, max_tokens = ARGV[8], tonumber(ARGV[10])
  local rank = rank_for(tenant, tonumber(turn), max_tokens, tonumber(ARGV[9]),
    {KEYS[7], KEYS[8], KEYS[9], KEYS[10]})
  local num_waiting, num_stranded = redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[14])
  local before = redis.call('ZCOUNT', KEYS[2], '-inf', exact(rank)) - num_stranded
  local num_running = redis.call('ZCARD', KEYS[3]) - num_waiting - redis.call('ZCARD', KEYS[11])
  -- Of no tenant, so of all.
  local length, mean = estimate(KEYS[8], tenant, max_tokens), estimate(KEYS[8], '\0', math.huge)
  local share = mean < math.huge and length / mean or 1
  local s_per_job = busy_s / num_ended
  before = math.max(0, before)
  return (before + 2 * math.sqrt(before)) * s_per_job,
    math.max(num_running * s_per_job * share, tonumber(ARGV[19]))
end

if tonumber(ARGV[3]) > 0 and tonumber(ARGV[19]) >= 0 then
  local wait_s, run_s = expected_s()
  if wait_s > 0 and wait_s + run_s > tonumber(ARGV[3]) then return {id, -2, exact(wait_s), exact(run_s)} end
end
-- What is left of a key's minute now, and how many jobs it has. Where it is not known what it may
-- have (-1), nothing has come back meanwhile.
local function left_now(most_requests, most_tokens)
  local at = now / 1000000
  local stored = redis.call('HGET', KEYS[15], ARGV[14])
  if not stored or #stored ~= 32 then
    if most_requests < 0 then return math.huge, math.huge, at, 0 end
    return most_requests, most_tokens, at, 0
  end
  local requests, tokens, since, jobs = struct.unpack('<dddd', stored)
  if most_requests < 0 then return requests, tokens, since, jobs end
  -- A time ahead is of a clock that has gone back since: nobody waits until it comes again.
  local minutes = at < since and 1 or (at - since) / 60
  local is_idle = redis.call('ZCARD', KEYS[3]) == redis.call('ZCARD', KEYS[11])
  return math.min(most_requests, requests + most_requests * minutes),
    math.min(most_tokens, tokens + most_tokens * minutes), at, is_idle and 0 or jobs
end

-- Takes a job from what its key may have. Answers what is left, or how long to wait for what.
local function take_quota(num_outputs, expected, most_jobs)
  local most_requests, most_tokens = tonumber(ARGV[16]), tonumber(ARGV[17])
  local requests, tokens, at, jobs = left_now(most_requests, most_tokens)
  local cost = #ARGV[7] / 4 + num_outputs * expected
  local first = math.min(cost, most_tokens)
  local answer = {id, -1, 0, 0, exact(requests), exact(tokens)}
  if tonumber(ARGV[19]) <= -2 then
    -- It was taken before, and what is there of that is lost.
  elseif most_requests > 0 and requests < 1 then
    answer[4] = exact((1 - requests) * 60 / most_requests)
    return answer
  elseif most_tokens > 0 and tokens < first then
    answer[3], answer[4] = 1, exact((first - tokens) * 60 / most_tokens)
    return answer
  elseif most_jobs > 0 and jobs >= most_jobs then
    answer[3], answer[4] = 2, 1
    return answer
  end
  -- Without a bound there is all of it, should there be one later.
  requests = most_requests ~= 0 and requests - 1 or math.huge
  tokens = most_tokens ~= 0 and tokens - cost or math.huge
  redis.call('HSET', KEYS[15], ARGV[14], struct.pack('<dddd', requests, tokens, at, jobs + 1))
  redis.call('HSET', KEYS[1], 'quota', struct.pack('<dd', expected, most_tokens) .. ARGV[14],
    'bounds', table.concat({ARGV[16], ARGV[17], ARGV[18]}, ' '))
  return {id, 0, exact(requests), exact(tokens)}
end

local answer = {id, 0}
if ARGV[14] ~= '' and table.concat({ARGV[16], ARGV[17], ARGV[18]}, ' ') ~= '0 0 0' then
  local expected = estimate(KEYS[8], ARGV[8], tonumber(ARGV[10]))
  answer = take_quota(tonumber(ARGV[5]), expected, tonumber(ARGV[18]))
  if answer[2] < 0 then return answer end
end
if tonumber(ARGV[15]) > 0 then redis.call('HSET', KEYS[1], 'weight', ARGV[15]) end
redis.call('HSET', KEYS[1], 'arrival', arrival, 'idem', ARGV[4], 'n', ARGV[5],
  'open', ARGV[5], 'spec', ARGV[6], 'prompt', ARGV[7], 'tenant', ARGV[8],
  'priority', ARGV[9], 'max_tokens', ARGV[10], 'need', ARGV[12])
if ARGV[13] ~= '' then redis.call('HSET', KEYS[1], 'edge', ARGV[13]) end
if tonumber(ARGV[3]) > 0 then
  local deadline = seconds(now + ARGV[3] * 1000000)
  redis.call('HSET', KEYS[1], 'deadline', deadline, 'within', ARGV[3])
  redis.call('ZADD', KEYS[4], deadline, id)
end
if turn ~= arrival then redis.call('HSET', KEYS[1], 'turn', turn) end
if KEYS[17] then
  redis.call('HSET', KEYS[1], 'request', ARGV[11])
  redis.call('SET', KEYS[17], id .. '\0' .. ARGV[11])
end
if #ARGV > 19 then
  redis.call('HDEL', KEYS[1], 'turn')
  redis.call('HSET', KEYS[1], unpack(ARGV, 20))
  local was = redis.call('HMGET', KEYS[1], 'arrival', 'turn', 'strikes')
  turn = was[2] or was[1]
  if was[3] then redis.call('ZADD', KEYS[16], was[3], id) end
end
local rank = rank_of(KEYS[1], KEYS[7], KEYS[8], KEYS[9], KEYS[10])
redis.call('ZADD', KEYS[2], exact(rank), id)
redis.call('ZADD', KEYS[3], turn, id)
ring(KEYS[5], KEYS[6], 'queued', {id})
return answer

--@ adopt
-- KEYS  order unranked counters vtime workers queue, then the claims of every worker
-- ARGV  policy, terms, number of workers, then those, then name and value of every weight
-- Stores the order that jobs are ranked by from now on. Those that live have ranks of the
-- order before, which say nothing in this one: they become unranked, for the script
-- "rerank". Not where both are "fair": tags and counters are of one kind then.
-- Answers 1 if the order was another one, 0 if not, 'moved' where the workers are others.
local known = redis.call('HMGET', KEYS[1], 'policy', 'terms', 'version')
if known[2] == ARGV[2] then return 0 end
local num_workers = tonumber(ARGV[3])
local workers = redis.call('ZRANGE', KEYS[5], 0, -1)
if #workers ~= num_workers then return 'moved' end
for i, worker in ipairs(workers) do
  if worker ~= ARGV[3 + i] then return 'moved' end
end
local are_tags = known[1] == 'fair' and ARGV[1] == 'fair'
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'policy', ARGV[1], 'terms', ARGV[2],
  'version', (tonumber(known[3]) or 0) + (are_tags and 0 or 1))
for i = 4 + num_workers, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
if are_tags then return 1 end
redis.call('DEL', KEYS[3], KEYS[4])
redis.call('ZUNIONSTORE', KEYS[2], num_workers + 1, unpack(KEYS, 6))
return 1

--@ rerank
-- KEYS  order unranked lengths counters vtime queue, then for every id: job, and the claims
--       of whoever holds it or last held it
-- ARGV  for every id: id, the job's claim as it was read ('' for none)
-- Ranks unranked jobs anew. One whose claim has changed since stays for the next time.
for i = 1, #ARGV, 2 do
  local id, job, holder = ARGV[i], KEYS[i + 6], nil
  if redis.call('ZSCORE', KEYS[2], id) then
    for _, index in ipairs({KEYS[6], KEYS[i + 7]}) do
      if redis.call('ZSCORE', index, id) then holder = index end
    end
    local known = redis.call('EXISTS', job) == 1
    if holder and known then
      local rank = rank_of(job, KEYS[1], KEYS[3], KEYS[4], KEYS[5])
      redis.call('ZADD', holder, exact(rank), id)
    end
    if holder or (redis.call('HGET', job, 'claim') or '') == ARGV[i + 1] then
      redis.call('ZREM', KEYS[2], id)
    end
  end
end
return redis.call('ZCARD', KEYS[2])

--@ waiting
-- KEYS  queue, then jobs
-- ARGV  their ids
-- Answers of those that wait {tenant, how many, the earliest arrival, ...}.
local tenants, answer = {}, {}
for i, id in ipairs(ARGV) do
  if redis.call('ZSCORE', KEYS[1], id) then
    -- A record of another kind is nobody's: job[1] is nil then.
    local job = redis.pcall('HMGET', KEYS[i + 1], 'tenant', 'arrival')
    local tenant, arrival = job[1] or '', job[2] or ''
    local known = tenants[tenant]
    if not known then
      tenants[tenant] = {1, arrival}
    else
      known[1] = known[1] + 1
      if (tonumber(arrival) or 0) < (tonumber(known[2]) or 0) then known[2] = arrival end
    end
  end
end
for tenant, known in pairs(tenants) do
  answer[#answer + 1] = tenant
  answer[#answer + 1] = known[1]
  answer[#answer + 1] = known[2]
end
return answer

--@ estimate
-- KEYS  lengths
-- ARGV  tenant, max_tokens
-- Answers how many tokens an output is expected to become, as text; nil where too few
-- outputs have finished to tell.
local expected, is_known = estimate(KEYS[1], ARGV[1], tonumber(ARGV[2]))
return is_known and exact(expected)

--@ prune
-- KEYS  counters vtime lengths quotas
-- ARGV  most tenants to remember
-- Forgets tenants while there are more. Counters up to the virtual time first: they say
-- nothing. Then the lowest, whose tenants gain least by it; lengths of those of whom the
-- fewest outputs are known. A key's quota that was not used for an hour is whole again.
local most = tonumber(ARGV[1])
local function keep(key, most, worth, least)
  local tenants, entries = {}, redis.call('HGETALL', key)
  for i = 1, #entries, 2 do
    local value = worth(entries[i], entries[i + 1])
    if value <= least then
      redis.call('HDEL', key, entries[i])
    else
      tenants[#tenants + 1] = {value, entries[i]}
    end
  end
  table.sort(tenants, function(a, b) return a[1] > b[1] or a[1] == b[1] and a[2] < b[2] end)
  for i = most + 1, #tenants do redis.call('HDEL', key, tenants[i][2]) end
end
if redis.call('HLEN', KEYS[1]) > most then
  local now = tonumber(redis.call('GET', KEYS[2])) or 0
  keep(KEYS[1], most, function(_, counter) return tonumber(counter) end, now)
end
if redis.call('HLEN', KEYS[3]) > most + 1 then
  keep(KEYS[3], most + 1, function(field, known)
    return field == 'all' and math.huge or (struct.unpack('<d', known))
  end, 0)
end
if redis.call('HLEN', KEYS[4]) > most then
  local old = time_us() / 1000000 - 3600
  keep(KEYS[4], most, function(_, quota)
    if #quota ~= 32 then return old end
    local _, _, at, jobs = struct.unpack('<dddd', quota)
    return jobs > 0 and math.huge or at
  end, old)
end
return 1

--@ acquire
-- KEYS  lease claims queue workers bell rings order epoch
-- ARGV  worker, holder, ttl_ms, info, the worker's incarnation ('' where nothing is to be kept)
-- Takes a lease that is free, expired or the holder's own. What was claimed under it waits
-- again, unless the worker is the one that it was claimed for: then it stays claimed, for
-- the new holder to run on or to give back. Answers {the new epoch, how many stayed
-- claimed}, nil where another one holds it.
local lease = redis.call('HMGET', KEYS[1], 'epoch', 'holder', 'expires', 'ttl', 'incarnation')
local now = time_us()
local held = lease[2] and lease[2] ~= '' and lease[2] ~= ARGV[2]
if held and is_good(lease[3], lease[4] or ARGV[3], now) then return false end
local epoch = next_epoch(KEYS[8], lease[1], now)
local expires = string.format('%.0f', now / 1000 + ARGV[3])
redis.call('HSET', KEYS[1], 'epoch', epoch, 'holder', ARGV[2], 'expires', expires,
  'ttl', ARGV[3], 'info', ARGV[4], 'step_us', 0, 'order', redis.call('HGET', KEYS[7], 'version') or 0,
  'incarnation', ARGV[5])
redis.call('PERSIST', KEYS[1])
redis.call('ZADD', KEYS[4], expires, ARGV[1])
if ARGV[5] == '' or lease[5] ~= ARGV[5] then give_back(KEYS[2], KEYS[3], KEYS[5], KEYS[6]) end
return {epoch, redis.call('ZCARD', KEYS[2])}

--@ renew
-- KEYS  lease workers order
-- ARGV  worker, epoch, ttl_ms, step_us (0: not known), KV blocks that sequences hold
-- Answers 1 while jobs have the ranks that they had when the lease was acquired, 0 where
-- they were ranked anew since. A lease that expired but was not taken is renewed like any
-- other.
local lease = redis.call('HMGET', KEYS[1], 'epoch', 'order')
if lease[1] ~= ARGV[2] then return false end
local expires = string.format('%.0f', time_us() / 1000 + ARGV[3])
redis.call('HSET', KEYS[1], 'expires', expires, 'ttl', ARGV[3], 'step_us', ARGV[4], 'used', ARGV[5])
redis.call('ZADD', KEYS[2], expires, ARGV[1])
return lease[2] == (redis.call('HGET', KEYS[3], 'version') or '0') and 1 or 0

--@ hand_over
-- KEYS  lease workers bell rings epoch
-- ARGV  worker, epoch
-- Its holder leaves the worker to whoever takes it next, with what is claimed under the lease.
-- If nobody does within the grace, the lease is vacated like one that expired now.
local known = redis.call('HGET', KEYS[1], 'epoch')
if known ~= ARGV[2] then return false end
local now = time_us()
local epoch = next_epoch(KEYS[5], known, now)
local expires = string.format('%.0f', math.floor(now / 1000))
redis.call('HSET', KEYS[1], 'epoch', epoch, 'holder', '', 'expires', expires)
redis.call('ZADD', KEYS[2], expires, ARGV[1])
ring(KEYS[3], KEYS[4], 'queued', {'', '', ARGV[1]})
return 1

--@ vacate
-- KEYS  lease claims queue workers bell rings epoch
-- ARGV  worker, epoch (empty: whatever it is), grace_ms
-- Frees a lease: its holder's wish (epoch given), or because it expired more than
-- grace_ms ago and nobody took it. One that expires further ahead than its time to live
-- has expired now: its holder may live, and has the grace to renew it. What was claimed
-- waits again; the epoch is raised and remembered for a week. Answers 1, nil where neither
-- holds.
local lease = redis.call('HMGET', KEYS[1], 'epoch', 'expires', 'ttl')
local now = time_us()
if ARGV[2] ~= '' then
  if lease[1] ~= ARGV[2] then return false end
else
  local expires = tonumber(lease[2]) or 0
  -- Versions before wrote no time to live; none was longer than a minute.
  if expires > now / 1000 and not is_good(expires, lease[3] or 60000, now) then
    expires = math.floor(now / 1000)
    redis.call('HSET', KEYS[1], 'expires', string.format('%.0f', expires))
    redis.call('ZADD', KEYS[4], expires, ARGV[1])
  end
  if expires + ARGV[3] > now / 1000 then return false end
end
local epoch = next_epoch(KEYS[7], lease[1], now)
redis.call('HSET', KEYS[1], 'epoch', epoch, 'holder', '', 'expires', 0)
redis.call('EXPIRE', KEYS[1], 604800)
redis.call('ZREM', KEYS[4], ARGV[1])
give_back(KEYS[2], KEYS[3], KEYS[5], KEYS[6])
return 1

--@ attend
-- KEYS  schedulers reaches
-- ARGV  holder, ttl_ms, the workers that answer it (JSON)
-- Says that a scheduler lives, and forgets those that were silent for ttl_ms, or that were
-- heard of later than now: the clock went back. Answers {name, its workers} of all that live.
local now = time_us() / 1000
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local seen = tonumber(redis.call('ZSCORE', KEYS[1], name))
  if seen < now - ARGV[2] or seen > now + 1 then
    redis.call('ZREM', KEYS[1], name)
    redis.call('HDEL', KEYS[2], name)
  end
end
return redis.call('HGETALL', KEYS[2])

--@ depart
-- KEYS  schedulers reaches
-- ARGV  holder
-- A scheduler takes no more workers.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1

--@ enrol
-- KEYS  told seen (the registry's)
-- ARGV  who tells, keep_ms, fresh_ms, then of each worker: its id, who drives it ('' where it is
--       not who tells), how many ms ago it answered, what is known (JSON)
-- Workers that nobody has heard of for keep_ms are forgotten. What a driver says stays while it
-- is younger than fresh_ms: others only know that the worker answers.
local now, keep, fresh = math.floor(time_us() / 1000), tonumber(ARGV[2]), tonumber(ARGV[3])
local function forget(from, to)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], from, to)) do
    redis.call('HDEL', KEYS[1], id)
    redis.call('ZREM', KEYS[2], id)
  end
end
forget('-inf', now - keep)
forget(now + 1000, '+inf') -- the clock went back
for i = 4, #ARGV, 4 do
  local id, driver = ARGV[i], ARGV[i + 1]
  local when, known = string.match(redis.call('HGET', KEYS[1], id) or '', '^(%d+)\n([^\n]*)\n')
  local is_kept = driver == '' and when and known ~= '' and known ~= ARGV[1]
    and math.abs(now - when) < fresh
  if not is_kept then
    local word = string.format('%.0f', now) .. '\n' .. driver .. '\n' .. ARGV[i + 3]
    redis.call('HSET', KEYS[1], id, word)
  end
  redis.call('ZADD', KEYS[2], 'GT', string.format('%.0f', now - ARGV[i + 2]), id)
end
redis.call('PEXPIRE', KEYS[1], keep)
redis.call('PEXPIRE', KEYS[2], keep)
return 1

--@ claim
-- KEYS  lease claims queue vtime stranded workers canary, then the job of every candidate
-- ARGV  worker, epoch, fingerprint, most jobs to claim, rank that theirs must be below (inf:
--       any), tokens that the worker has room for, 1 if suspects are wanted, 0 if others
--       are, then the candidates' ids
-- Which jobs are first is known only after a look at the queue, and keys must be named
-- beforehand: the caller looks, names the candidates in order, and this script decides
-- again. A job with output under another fingerprint is passed over, and so is one that
-- the worker has no room for: those become stranded. One whose deadline has passed is left
-- to the sweep. Suspects are claimed only by a lease that holds nothing, and of one worker at a
-- time. A candidate that this lease holds already is answered again, because the first answer
-- was lost or it was claimed by the holder before. Those take room first: no more are claimed
-- than were asked for.
-- Answers for every claimed job {id, spec, prompt, arrival, deadline, fingerprint, rank,
-- strikes, and a list of names and values of what else its record has}.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then return false end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[3])
local mark, room, claimed = ARGV[1] .. ':' .. ARGV[2], tonumber(ARGV[4]), {}
local below, now, held = tonumber(ARGV[5]), time_us(), {}
local stored = tonumber(redis.call('GET', KEYS[4])) or 0
local virtual_time, may_try = stored, false
-- What "submit" needs besides, to store the job again as it is.
local KEPT = {'request', 'quota', 'bounds', 'weight', 'turn', 'restarts', 'need', 'started',
  'strikes', 'problem', 'losses', 'lost_at', 'cached'}
for i = 8, #ARGV do
  held[i] = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if held[i] then room = room - 1 end
end
if ARGV[7] == '1' and redis.call('ZCARD', KEYS[2]) == 0 then
  local canary = redis.call('GET', KEYS[7]) or ARGV[1]
  local until_ms = canary ~= ARGV[1] and tonumber(redis.call('ZSCORE', KEYS[6], canary)) or 0
  may_try = until_ms <= now / 1000
end

local function is_wanted(strikes)
  if ARGV[7] == '0' then return strikes == 0 end
  return strikes > 0 and strikes < GUILTY and may_try
end

-- What an edge keeps may be as large as a request. Of many large ones a claim would keep Redis
-- busy for seconds: those are told by their size, to be read one by one.
local MAX_EDGE_BYTES = 4096

local function kept_of(key)
  local kept, values = {}, redis.call('HMGET', key, unpack(KEPT))
  local edge_bytes = redis.call('HSTRLEN', key, 'edge')
  if edge_bytes > MAX_EDGE_BYTES then
    kept = {'edge_bytes', tostring(edge_bytes)}
  elseif edge_bytes > 0 then
    kept = {'edge', redis.call('HGET', key, 'edge')}
  end
  for i, name in ipairs(KEPT) do
    if values[i] then
      kept[#kept + 1] = name
      kept[#kept + 1] = values[i]
    end
  end
  return kept
end

local function consider(i)
  local id, key, ours = ARGV[i], KEYS[i], held[i]
  local rank = not ours and room > 0 and redis.call('ZSCORE', KEYS[3], id)
  if ours or (rank and (tonumber(rank) < below or below == math.huge)) then
    local job = redis.call('HMGET', key, 'spec', 'prompt', 'arrival', 'deadline',
      'fingerprint', 'share', 'open', 'strikes', 'need')
    local strikes = tonumber(job[8]) or 0
    if rank and not job[1] then
      redis.call('ZREM', KEYS[3], id)
    elseif rank and ((job[5] and job[5] ~= ARGV[3])
      or (tonumber(job[9]) or 0) > tonumber(ARGV[6])) then
      redis.call('ZADD', KEYS[5], 'NX', seconds(now), id)
    elseif rank and is_wanted(strikes) and not (job[4] and is_past(job[4], now)) then
      redis.call('ZREM', KEYS[3], id)
      redis.call('ZREM', KEYS[5], id)
      redis.call('ZADD', KEYS[2], rank, id)
      redis.call('HSETNX', key, 'started', seconds(now))
      -- TokenCounters.claimed of order.py.
      if job[6] then
        local weight, expected = struct.unpack('<dd', job[6])
        local pace = job[7] * expected / weight / 64
        virtual_time = math.max(virtual_time + pace, tonumber(rank))
      end
      ours, room = rank, room - 1
    end
    if ours then
      if job[1] then redis.call('HSET', key, 'claim', mark) end
      if strikes > 0 then redis.call('SET', KEYS[7], ARGV[1]) end
      claimed[#claimed + 1] = {id, job[1], job[2], job[3], job[4], job[5], ours, strikes, kept_of(key)}
    end
  end
end
for i = 8, #ARGV do
  -- A record that is broken is its own job's trouble: the caller can't read the answer, ends
  -- the job, and goes on with the others.
  local is_whole, problem = pcall(consider, i)
  if not is_whole then claimed[#claimed + 1] = {ARGV[i], tostring(problem)} end
end
if virtual_time > stored then redis.call('SET', KEYS[4], exact(virtual_time)) end
return claimed

--@ strike
-- KEYS  lease claims suspects canary, then the job of every id
-- ARGV  epoch, worker, what happened, 1 if that accuses (it crashed) and 0 if it does so only
--       when it happens again and again (it was lost), then for every id: id, how many tokens it
--       has, how many more it must have not to be where it was
-- The worker that a lane drove has crashed or was lost, and any of the jobs may be why that were
-- there: each that is claimed under the lease is struck, see "struck" in suspects.py. They are
-- suspects from now on, and do not go on together, whoever takes the lease next. Answers {id,
-- strikes, ...} of those that were struck.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return false end
local is_alone, answer = redis.call('ZCARD', KEYS[2]) == 1, {}
-- Once a script has written something it is not refused for want of memory: a job that breaks
-- lanes must not do so for as long as there is none.
redis.call('ZREM', KEYS[3], '')
redis.call('HSET', KEYS[1], 'incarnation', '')
if redis.call('GET', KEYS[4]) == ARGV[2] then redis.call('DEL', KEYS[4]) end

local function struck(strikes)
  if is_alone then return strikes >= ALONE and GUILTY or ALONE end
  return math.max(strikes, math.min(strikes + 1, ALONE - 1))
end

-- Whether it was lost so often without getting any further.
local function is_stuck(job, num_tokens, num_more)
  local known = redis.call('HMGET', job, 'losses', 'lost_at')
  local losses, lost_at = tonumber(known[1]) or 0, tonumber(known[2]) or 0
  if losses == 0 or num_tokens - lost_at >= num_more then losses, lost_at = 0, num_tokens end
  redis.call('HSET', job, 'losses', losses + 1, 'lost_at', lost_at)
  return losses + 1 >= MAX_LOSSES
end

for i = 5, #ARGV, 3 do
  local id, job = ARGV[i], KEYS[5 + (i - 5) / 3]
  if redis.call('ZSCORE', KEYS[2], id) and redis.call('EXISTS', job) == 1
    and (ARGV[4] == '1' or is_stuck(job, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]))) then
    local strikes = struck(tonumber(redis.call('HGET', job, 'strikes')) or 0)
    redis.call('HSET', job, 'strikes', strikes, 'problem', ARGV[3])
    redis.call('ZADD', KEYS[3], strikes, id)
    answer[#answer + 1] = id
    answer[#answer + 1] = strikes
  end
end
return answer

--@ remind
-- KEYS  suspects, job
-- ARGV  id, its strikes, what happened, how long ago (s)
-- A strike that a server which was promoted may lack. Strikes never become fewer by it. Who was
-- cleared since, by whomever, stays so.
-- First, as in "strike": it is not refused for want of memory then.
redis.call('ZREM', KEYS[1], '')
local job = redis.call('HMGET', KEYS[2], 'spec', 'ended', 'strikes', 'cleared')
if not job[1] or job[2] or (tonumber(job[3]) or 0) >= tonumber(ARGV[2]) then return 0 end
local now, cleared = time_us(), (tonumber(job[4]) or 0) * 1000000
if cleared > now - ARGV[4] * 1000000 and cleared <= now then return 0 end
redis.call('HSET', KEYS[2], 'strikes', ARGV[2], 'problem', ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 1

--@ restart
-- KEYS  job queue stranded bell rings counters quotas, then the log and the lp of every output
-- ARGV  id, fingerprint of the model that the output is from, as it was read
-- Drops the output of a queued job, so that it begins anew: what was given back at the ends of
-- outputs is taken again, since they end again. Answers 1, 0 where it is not as it was.
redis.call('ZREM', KEYS[3], ARGV[1])
local job = redis.call('HMGET', KEYS[1], 'fingerprint', 'n', 'quota', 'share')
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) or job[1] ~= ARGV[2] then return 0 end

local due = {}
local function take_again(num_tokens)
  if job[4] then add_to_counter(KEYS[6], due, job[4], unused(job[4], num_tokens, true)) end
  if job[3] then give_back_quota(KEYS[7], job[3], 2 * struct.unpack('<d', job[3]) - num_tokens, 0) end
end

for index = 0, num_outputs(job[2]) - 1 do
  -- A record that is broken must not keep its job from going on.
  if redis.call('HDEL', KEYS[1], 'f' .. index) == 1 then
    pcall(take_again, redis.call('STRLEN', KEYS[8 + 2 * index]) / 4)
  end
end
store_counters(KEYS[6], due)
for i = 8, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('HDEL', KEYS[1], 'fingerprint', 'cached')
redis.call('HSET', KEYS[1], 'open', job[2])
redis.call('HINCRBY', KEYS[1], 'restarts', 1)
ring(KEYS[4], KEYS[5], 'moved', {ARGV[1]})
ring(KEYS[4], KEYS[5], 'queued', {ARGV[1]})
return 1

--@ absolve
-- KEYS  suspects, then the job of every id
-- ARGV  the ids
-- They broke nothing where they could have, or are gone.
local now = seconds(time_us())
for i, id in ipairs(ARGV) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[i + 1], 'strikes', 'problem', 'losses', 'lost_at')
  if redis.call('EXISTS', KEYS[i + 1]) == 1 then redis.call('HSET', KEYS[i + 1], 'cleared', now) end
end
return #ARGV

--@ retire
-- KEYS  canary
-- ARGV  worker
-- Nobody is tried there any more: others may be elsewhere.
return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0

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

--@ outgrow
-- KEYS  lease claims queue bell rings job
-- ARGV  epoch, id, need
-- Gives a claimed job back that has become too long for the lane's worker: it waits for one
-- that has room for `need` tokens.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return false end
local score = redis.call('ZSCORE', KEYS[2], ARGV[2])
if not score then return 0 end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[3], score, ARGV[2])
redis.call('HDEL', KEYS[6], 'claim')
redis.call('HSET', KEYS[6], 'need', ARGV[3])
ring(KEYS[4], KEYS[5], 'queued', {ARGV[2]})
return 1

--@ claimed
-- KEYS  lease claims
-- ARGV  epoch
-- Answers the ids of the jobs that are claimed under the lease.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then return false end
return redis.call('ZRANGE', KEYS[2], 0, -1)

--@ commit
-- KEYS  lease claims deadlines ended bell rings lengths counters unweighed queue stranded pace
--       quotas, then for every row: job, log, and lp where the row has log-probabilities
-- ARGV  worker, epoch, length of a job key without its id, finish of what is overdue,
--       rows: five u32 each (index, offset, tokens, log-probabilities, 1 if it ends, 2 if by
--       itself), the tokens of all rows, two u32 for each of those rows whose output was begun
--       here (its place among them, tokens of the prompt that were cached then), then for every
--       row its log-probabilities and its finish
-- One step of a lane. A row of a job whose deadline has passed ends its output with that and
-- brings nothing else. Answers one i32 for each row, packed: -1 applied, -2 existed,
-- -3 ended (or claimed by another lease), -4 there is no such job, or nobody has claimed it, else
-- the length of the log, which is shorter than the row's offset.
local lease = redis.call('HMGET', KEYS[1], 'epoch', 'fingerprint')
if lease[1] ~= ARGV[2] then return false end
local APPLIED, EXISTED, ENDED, UNKNOWN = -1, -2, -3, -4
local mark, prefix_length = ARGV[1] .. ':' .. ARGV[2], tonumber(ARGV[3])
local heads, tokens, now = ARGV[5], ARGV[6], time_us()
local call, unpack_head, pack_answer = redis.call, struct.unpack, struct.pack

local due, grown, num_ended, cached = {}, {}, 0, nil
-- Notes of a job what its first row tells, which is at `at` in the heads.
local function begin(job, at)
  if not cached then
    cached = {}
    for i = 1, #ARGV[7], 8 do
      local row, num_cached = unpack_head('<I4I4', ARGV[7], i)
      cached[1 + 20 * row] = num_cached
    end
  end
  call('HSETNX', job, 'fingerprint', lease[2])
  if cached[at] then call('HSETNX', job, 'cached', cached[at]) end
end

-- Charges what an output has cost beyond what was reserved for it.
local function charge(reserved, before, after)
  local weight, expected, prompt = struct.unpack('<ddd', reserved)
  local cost = prompt + after * OUTPUT_TOKEN_COST
  if cost <= expected then return end
  local paid = math.max(prompt + before * OUTPUT_TOKEN_COST, expected)
  add_to_counter(KEYS[8], due, reserved, (cost - paid) / weight)
end

-- Lengths.observe of order.py.
local function observe(job, num_tokens)
  for _, field in ipairs({'all', 'of:' .. (call('HGET', job, 'tenant') or '')}) do
    local known = grown[field] or call('HGET', KEYS[7], field)
    local count, total = 0, 0
    if known then count, total = struct.unpack('<dd', known) end
    count, total = count + 1, total + num_tokens
    if count >= 1000 then count, total = count / 2, total / 2 end
    grown[field] = struct.pack('<dd', count, total)
  end
end

local function end_output(job, field, finish, reserved, num_tokens)
  call('HSET', job, field, finish)
  if reserved then add_to_counter(KEYS[8], due, reserved, -unused(reserved, num_tokens, true)) end
  local open, quota = call('HINCRBY', job, 'open', -1), call('HGET', job, 'quota')
  if quota then pcall(give_back_quota, KEYS[13], quota, num_tokens, open > 0 and 0 or 1) end
  if open > 0 then return end
  num_ended = num_ended + 1
  local id, ended = string.sub(job, prefix_length + 1), seconds(now)
  call('HSET', job, 'ended', ended)
  call('ZADD', KEYS[4], ended, id)
  call('RPUSH', KEYS[9], id)
  call('ZREM', KEYS[2], id)
  call('ZREM', KEYS[3], id)
end

-- Only where jobs waited all the time do those that end tell how fast that goes.
local function keep_pace()
  if num_ended == 0 then return end
  local PACE_FADES_S, LONGEST_S = 30, 60
  local pace = call('HMGET', KEYS[12], 'jobs', 's', 'at', 'waiting')
  local waiting = call('ZCARD', KEYS[10]) > call('ZCARD', KEYS[11])
  local jobs, busy_s = tonumber(pace[1]) or 0, tonumber(pace[2]) or 0
  local since_s = (now - (tonumber(pace[3]) or now)) / 1000000
  if waiting and pace[4] == '1' and since_s >= 0 and since_s < LONGEST_S then
    local kept = math.exp(-since_s / PACE_FADES_S)
    jobs, busy_s = jobs * kept + num_ended, busy_s * kept + since_s
  end
  call('HSET', KEYS[12], 'jobs', exact(jobs), 's', exact(busy_s), 'at', string.format('%.0f', now),
    'waiting', waiting and 1 or 0)
end

local answers, ids, finished, last = {}, {}, {}, nil

-- What the doorbell is to say of a row's job.
local function note(job, has_ended)
  if job ~= last then
    ids[#ids + 1] = string.sub(job, prefix_length + 1)
    last = job
  end
  if has_ended then finished[#finished + 1] = string.sub(job, prefix_length + 1) end
end

local function tell()
  if #finished > 0 then
    ids[#ids + 1] = ''
    for _, id in ipairs(finished) do ids[#ids + 1] = id end
  end
  if #ids > 0 then ring(KEYS[5], KEYS[6], 'moved', ids) end
end

-- One piece: each function that a row calls costs some 1 % of the whole.
local key, arg, token = 14, 8, 1
for at = 1, #heads, 20 do
  local index, offset, num_tokens, num_logprobs, ends = unpack_head('<I4I4I4I4I4', heads, at)
  local job, log, field, answer = KEYS[key], KEYS[key + 1], 'f' .. index, EXISTED
  local finish = ends > 0 and ARGV[arg + num_logprobs]
  local state = call('HMGET', job, 'claim', field, 'deadline', 'share')
  local length = call('STRLEN', log) / 4
  local skip = length - offset
  if state[2] then
    local is_same = state[2] == finish and skip == num_tokens
    answer = is_same and EXISTED or ENDED
  elseif state[1] ~= mark then
    answer = state[1] and ENDED or UNKNOWN
  elseif state[3] and is_past(state[3], now) then
    answer = ENDED
    end_output(job, field, ARGV[4], state[4], length)
    note(job, true)
  elseif skip < 0 then
    answer = length
  elseif skip < num_tokens or finish then
    answer = APPLIED
    if length == 0 then begin(job, at) end
    if skip < num_tokens then
      call('APPEND', log, string.sub(tokens, token + 4 * skip, token + 4 * num_tokens - 1))
      for i = skip, num_logprobs - 1 do call('RPUSH', KEYS[key + 2], ARGV[arg + i]) end
      if state[4] then charge(state[4], length, offset + num_tokens) end
      length = offset + num_tokens
    end
    if finish then end_output(job, field, finish, state[4], length) end
    if ends == 2 then observe(job, length) end
    note(job, finish)
  end
  answers[#answers + 1] = pack_answer('<i4', answer)
  key = key + (num_logprobs > 0 and 3 or 2)
  arg = arg + num_logprobs + (finish and 1 or 0)
  token = token + 4 * num_tokens
end
keep_pace()
store_counters(KEYS[8], due)
for field, known in pairs(grown) do call('HSET', KEYS[7], field, known) end
tell()
return table.concat(answers)

--@ cancel
-- KEYS  job queue claims deadlines ended bell rings counters unweighed followers quotas, then
--       the log of every output
-- ARGV  id, the job's claim as it was read ('' for none), finish, and where it is to end only
--       if no other replica has followers of it: a replica, ttl_ms of what replicas say
-- Ends every output that has not ended. The claims key depends on who holds the job: the
-- caller reads that first, and this script answers 'moved' where it has changed since.
-- Answers 1 if this ended the job, 0 if it had ended or is followed, nil if it is unknown.
local job = redis.call('HMGET', KEYS[1], 'n', 'ended', 'claim', 'share', 'quota')
if not job[1] or job[2] then
  redis.call('ZREM', KEYS[4], ARGV[1])
  return job[1] and 0 or false
end
if (job[3] or '') ~= ARGV[2] then return 'moved' end
if ARGV[4] then
  local followers = redis.call('ZRANGE', KEYS[10], 0, -1, 'WITHSCORES')
  for i = 1, #followers, 2 do
    local is_other = followers[i] ~= ARGV[4]
    if is_other and is_good(followers[i + 1], ARGV[5], time_us()) then return 0 end
  end
end
-- First, since a script that has written something is not refused for want of memory: what
-- ends makes room.
redis.call('ZREM', KEYS[4], ARGV[1])
local now, due = seconds(time_us()), {}
for index = 0, num_outputs(job[1]) - 1 do
  local is_open = redis.call('HSETNX', KEYS[1], 'f' .. index, ARGV[3]) == 1
  if is_open and (job[4] or job[5]) then
    -- A record that is broken must not keep its job from ending: it gets nothing back.
    pcall(function()
      local num_tokens = redis.call('STRLEN', KEYS[12 + index]) / 4
      if job[5] then give_back_quota(KEYS[11], job[5], num_tokens, 0) end
      if job[4] then add_to_counter(KEYS[8], due, job[4], -unused(job[4], num_tokens, job[3])) end
    end)
  end
end
if job[5] then pcall(give_back_quota, KEYS[11], job[5], nil, 1) end
store_counters(KEYS[8], due)
redis.call('HSET', KEYS[1], 'ended', now, 'open', 0)
redis.call('ZADD', KEYS[5], now, ARGV[1])
redis.call('RPUSH', KEYS[9], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
ring(KEYS[6], KEYS[7], 'ended', {ARGV[1]})
return 1

--@ follow
-- KEYS  for every id: followers, job
-- ARGV  replica, for how long (ms), ttl_ms of what replicas say
-- Notes that clients of the replica follow these jobs, of those that are known.
local now = time_us() / 1000
for i = 1, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i + 1]) == 1 then
    -- First, since a script that has written something is not refused for want of memory:
    -- who follows a job must not lose it then.
    redis.call('ZREM', KEYS[i], ARGV[1])
    redis.call('ZADD', KEYS[i], string.format('%.0f', now + ARGV[2]), ARGV[1])
    redis.call('PEXPIRE', KEYS[i], ARGV[3])
  end
end
return 1

--@ settle
-- KEYS  jobs deadlines ended, then the job of every id
-- ARGV  the ids
-- Brings back times that were written before the clock went back. A deadline is at most as
-- far ahead as it was at submit; what has ended has done so by now, in the order in which it
-- did. Answers how many jobs that changed.
local now, num_settled = time_us(), 0
local function settle(i, id)
  local key, is_late = KEYS[i + 3], false
  local job = redis.call('HMGET', key, 'ended', 'deadline', 'within', 'arrival')
  if job[1] and job[1] * 1000000 > now then
    local ended = seconds(now - #ARGV + i)
    redis.call('HSET', key, 'ended', ended)
    redis.call('ZADD', KEYS[3], 'XX', ended, id)
    redis.call('ZADD', KEYS[1], 'XX', 'LT', ended, id)
    is_late = true
  elseif not job[1] and job[2] then
    local latest = now / 1000000 + (job[3] or job[2] - job[4])
    if tonumber(job[2]) > latest + 0.001 then
      redis.call('HSET', key, 'deadline', seconds(latest * 1000000))
      redis.call('ZADD', KEYS[2], 'XX', seconds(latest * 1000000), id)
      is_late = true
    end
  end
  if is_late then num_settled = num_settled + 1 end
end
-- A record that is broken keeps no other from being settled.
for i, id in ipairs(ARGV) do pcall(settle, i, id) end
return num_settled

--@ weigh
-- KEYS  unweighed ended_bytes, then for every id: job, and its logs, lps and idem
-- ARGV  for every id: id, number of its keys
-- Measures what jobs take that have ended. One that another has measured or forgotten is
-- passed over.
local INDEX_BYTES = 500  -- of its members in sorted sets, which can't be told apart
local key, total = 3, 0
local function weigh(i)
  local job, bytes = KEYS[key], INDEX_BYTES
  if redis.call('LREM', KEYS[1], 1, ARGV[i]) > 0 and redis.call('HEXISTS', job, 'spec') == 1 then
    for at = key, key + ARGV[i + 1] - 1 do
      bytes = bytes + (redis.call('MEMORY', 'USAGE', KEYS[at], 'SAMPLES', 0) or 0)
    end
    redis.call('HSET', job, 'bytes', bytes)
    total = total + bytes
  end
end
for i = 1, #ARGV, 2 do
  pcall(weigh, i)  -- a record that is broken weighs nothing
  key = key + ARGV[i + 1]
end
if total > 0 then redis.call('INCRBY', KEYS[2], total) end
return total

--@ forget
-- KEYS  job ended jobs ended_bytes, then the job's logs, lps and idem
-- ARGV  id
-- Drops everything of a job that has ended. Answers its bytes (0: not weighed), nil where
-- another one has done it.
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return false end
local known = redis.pcall('HGET', KEYS[1], 'bytes')
local bytes = type(known) == 'string' and tonumber(known) or 0
redis.call('DEL', KEYS[1])
for i = 5, #KEYS do redis.call('DEL', KEYS[i]) end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if redis.call('ZCARD', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[4])
elseif bytes > 0 then
  redis.call('DECRBY', KEYS[4], bytes)
end
return bytes

--@ read
-- KEYS  for every request: job, log, and lp where its log-probabilities are wanted
-- ARGV  requests: four u32 each (index, offset, most tokens to answer, 1 if
--       log-probabilities are wanted)
-- Answers {heads, tokens, then every request's log-probabilities, and its finish and what the
-- job's hash has as "cached" ('' for nothing)}. heads has four i32 for each request:
-- number of tokens (-1: no such job), of log-probabilities,
-- 1 if the output has ended and this is all of it, and how often the job was begun anew;
-- tokens are those of all requests.
local heads, tokens, key = {}, {}, 1
local answer = {'', ''}
for at = 1, #ARGV[1], 16 do
  local index, offset, most, wanted = struct.unpack('<I4I4I4I4', ARGV[1], at)
  local job = redis.call('HMGET', KEYS[key], 'n', 'f' .. index, 'restarts')
  local last = offset + most - 1
  local text = job[1] and redis.call('GETRANGE', KEYS[key + 1], 4 * offset, 4 * last + 3) or ''
  local entries = {}
  if wanted == 1 then entries = redis.call('LRANGE', KEYS[key + 2], offset, last) end
  for _, entry in ipairs(entries) do answer[#answer + 1] = entry end
  local ended = job[2] and #text < 4 * most
  if ended then
    answer[#answer + 1] = job[2]
    answer[#answer + 1] = redis.call('HGET', KEYS[key], 'cached') or ''
  end
  heads[#heads + 1] = struct.pack('<i4i4i4i4', job[1] and #text / 4 or -1, #entries,
    ended and 1 or 0, job[3] or 0)
  tokens[#tokens + 1] = text
  key = key + 2 + wanted
end
answer[1], answer[2] = table.concat(heads), table.concat(tokens)
return answer

--@ look
-- KEYS  queue, then the job of every id
-- ARGV  the ids
-- Answers for every id nil if it is unknown, {} if its record is broken, else {spec, n, arrival,
-- deadline, ended, bytes of prompt, 1 if it waits, fingerprint, need, seconds until it was first
-- claimed, cached, then n finishes}. Not a transaction: those are refused while memory is short, even for reading.
local answers, now = {}, time_us() / 1000000

-- Until now where it was not claimed yet, until its end where it never was; false of a job that
-- was claimed by a version that did not note when.
local function waited(arrival, started, ended, claim, waits)
  local was_seen = started or (claim and not waits)
  local until_s = tonumber(was_seen and started or not was_seen and (ended or now) or nil)
  arrival = tonumber(arrival)
  return until_s and arrival and string.format('%.6f', math.max(0, until_s - arrival)) or false
end

local function look(key, id)
  local job = redis.call('HMGET', key, 'spec', 'n', 'arrival', 'deadline', 'ended', 'fingerprint',
    'need', 'started', 'claim', 'cached')
  if not job[1] then return false end
  assert(tonumber(job[2]) <= MAX_OUTPUTS, 'more outputs than there can be')
  local waits = redis.call('ZSCORE', KEYS[1], id)
  job[11] = job[10]
  job[10] = waited(job[3], job[8], job[5], job[9], waits)
  job[8], job[9] = job[6], job[7]
  job[6] = redis.call('HSTRLEN', key, 'prompt')
  job[7] = waits and 1 or 0
  for index = 0, job[2] - 1 do
    job[12 + index] = redis.call('HGET', key, 'f' .. index)
  end
  return job
end

for i, id in ipairs(ARGV) do
  local is_whole, job = pcall(look, KEYS[i + 1], id)
  answers[i] = is_whole and job or not is_whole and {}
end
return answers

--@ shelve
-- KEYS  record shelf open data lines
-- ARGV  id, the version that it is to have had (0: none), record, 1 if it is open, ttl (s)
-- Puts a record on its shelf, or changes it. Answers 1, 0 where it has another version, or that
-- of a change which is made already.
local version = tonumber(redis.call('HGET', KEYS[1], 'version')) or 0
if version ~= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'record', ARGV[3], 'version', version + 1)
redis.call('ZADD', KEYS[2], 'NX', seconds(time_us()), ARGV[1])
redis.call(ARGV[4] == '1' and 'SADD' or 'SREM', KEYS[3], ARGV[1])
for _, key in ipairs({KEYS[1], KEYS[4], KEYS[5]}) do redis.call('EXPIRE', key, ARGV[5]) end
return 1

--@ unshelve
-- KEYS  record shelf open data lines minder
-- ARGV  id
-- Drops a record and all that belongs to it. Answers 1 if it was there.
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[1])
return redis.call('DEL', KEYS[1], KEYS[4], KEYS[5], KEYS[6]) > 0 and 1 or 0

--@ fill
-- KEYS  data
-- ARGV  offset, bytes, ttl (s)
-- Appends to a record's data at its end. Answers 1, 0 where that is elsewhere.
local length = redis.call('STRLEN', KEYS[1])
if length == ARGV[1] + #ARGV[2] then return 1 end
if length ~= tonumber(ARGV[1]) then return 0 end
redis.call('APPEND', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1

--@ jot
-- KEYS  record lines
-- ARGV  number, "#good" or "#bad", text, ttl (s)
-- Notes what came of a line, once: what came first stays. Answers nil where there is no record.
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[3]) == 1 then
  redis.call('HINCRBY', KEYS[2], ARGV[2], 1)
  redis.call('EXPIRE', KEYS[2], ARGV[4])
end
return 1

--@ mind
-- KEYS  minder
-- ARGV  who, for how long (ms)
-- Answers 1 if nobody else works on it.
local other = redis.call('GET', KEYS[1])
if other and other ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
