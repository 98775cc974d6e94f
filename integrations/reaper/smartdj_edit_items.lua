-- @description SmartDJ: Edit items (Lua)
-- @version 0.1.0
-- @author SmartDJ Agent
-- @about Edits the selected items from an instruction, for a REAPER without Python. Same helper, same takes.
-- @smartdj_action SMARTDJ_EDIT_ITEMS_LUA
-- @smartdj_menu item SmartDJ: edit…
-- The helper's protocol is described in smartdj_agent/reaper/job.py.
local r = reaper
local RENDER, PEAKS, FIELDS = "SmartDJ: render before editing", 40047, 16
local DIRECT = { WAVE = true, AIFF = true, FLAC = true, W64 = true, CAF = true }
local VALUES = { "D_VOL", "D_PAN", "D_PANLAW", "D_PLAYRATE", "D_PITCH", "B_PPITCH", "I_PITCHMODE" }

-- JSON, base64, files ---------------------------------------------------------------------------------------------
local SIGNS = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
local BACK = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

local NULL = {}

local function encode(value)
  if value == NULL then return "null" end
  if type(value) == "table" then
    local parts = {}
    if value[1] ~= nil or value.list then
      for _, item in ipairs(value) do parts[#parts + 1] = encode(item) end
      return "[" .. table.concat(parts, ",") .. "]"
    end
    for key, item in pairs(value) do parts[#parts + 1] = encode(key) .. ":" .. encode(item) end
    table.sort(parts)
    return "{" .. table.concat(parts, ",") .. "}"
  elseif type(value) == "number" then
    return math.type(value) == "integer" and string.format("%d", value) or string.format("%.17g", value)
  elseif type(value) == "string" then
    return '"' .. value:gsub('[%c"\\]', function(c) return SIGNS[c] or string.format("\\u%04x", c:byte()) end) .. '"'
  end
  return tostring(value)
end

local function decode(text)
  local at = 1
  local parse
  local function skip() at = text:find("%S", at) or #text + 1 end
  local function string_()
    local parts = {}
    at = at + 1
    while true do
      local stop = text:find('["\\]', at)
      parts[#parts + 1] = text:sub(at, stop - 1)
      if text:sub(stop, stop) == '"' then at = stop + 1 return table.concat(parts) end
      local sign = text:sub(stop + 1, stop + 1)
      at = stop + 2
      if sign == "u" then
        local code = tonumber(text:sub(at, at + 3), 16)
        at = at + 4
        if code >= 0xD800 and code < 0xDC00 and text:sub(at, at + 1) == "\\u" then
          code = 0x10000 + (code - 0xD800) * 0x400 + tonumber(text:sub(at + 2, at + 5), 16) - 0xDC00
          at = at + 6
        end
        parts[#parts + 1] = utf8.char(code)
      else
        parts[#parts + 1] = BACK[sign]
      end
    end
  end
  local function members(close, read)
    local found = {}
    at = at + 1
    skip()
    while text:sub(at, at) ~= close do
      read(found)
      skip()
      if text:sub(at, at) == "," then at = at + 1 end
      skip()
    end
    at = at + 1
    return found
  end
  function parse()
    skip()
    local sign = text:sub(at, at)
    if sign == '"' then return string_() end
    if sign == "{" then
      return members("}", function(t) local key = string_() skip() at = at + 1 t[key] = parse() end)
    elseif sign == "[" then
      return members("]", function(t) t[#t + 1] = parse() end)
    end
    local word = text:match("^[%w+.-]+", at)
    at = at + #word
    if word == "null" then return NULL end
    if word == "true" or word == "false" then return word == "true" end
    return tonumber(word)
  end
  return parse()
end

local LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function base64(text)
  local bits, count, out = 0, 0, {}
  for letter in text:gmatch("[%w+/]") do
    bits, count = bits << 6 | (LETTERS:find(letter, 1, true) - 1), count + 6
    if count >= 8 then count = count - 8 out[#out + 1] = string.char(bits >> count & 255) end
  end
  return table.concat(out)
end

local function write(path, text)
  local file = assert(io.open(path .. ".part", "wb"))
  file:write(text)
  file:close()
  os.remove(path)
  assert(os.rename(path .. ".part", path))
end

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

-- From an item to a part of a file: as in smartdj_reaper/segment.py -------------------------------------------------
local function text_of(take, name) return select(2, r.GetSetMediaItemTakeInfo_String(take, name, "", false)) end
local function guid_of(item) return select(2, r.GetSetMediaItemInfo_String(item, "GUID", "", false)) end
local function whole(x, round) local near = math.floor(x + 0.5) return math.abs(x - near) < 1e-3 and near or round(x) end

local function segment_of(item)
  local take = r.GetActiveTake(item)
  local source = take and r.GetMediaItemTake_Source(take)
  if not source then return nil, "is empty" end
  if r.TakeIsMIDI(take) then return nil, "is MIDI; render or freeze it first" end
  if math.floor(r.GetMediaItemInfo_Value(item, "C_LOCK")) & 1 == 1 then return nil, "is locked" end
  local function value(name) return r.GetMediaItemTakeInfo_Value(take, name) end
  local unusual, base, limit, depth = nil, 0, nil, 0
  while r.GetMediaSourceParent(source) do
    local ok, offset, length, reverse = r.PCM_Source_GetSectionInfo(source)
    if depth == 0 then base, limit = offset, length end
    if not ok or reverse then unusual = "it is reversed" end
    source, depth = r.GetMediaSourceParent(source), depth + 1
  end
  local kind, path = r.GetMediaSourceType(source, ""), r.GetMediaSourceFileName(source, "")
  local rate, length = r.GetMediaSourceSampleRate(source), (r.GetMediaSourceLength(source))
  if kind:find("OFFLINE") then return nil, "is offline; set it online first" end
  if path ~= "" and not exists(path) then return nil, "is missing its file: " .. path end
  if rate <= 0 or length <= 0 then return nil, "is offline or can't be read by REAPER" end
  local offset, seconds = value("D_STARTOFFS"), r.GetMediaItemInfo_Value(item, "D_LENGTH") * value("D_PLAYRATE")
  local loops = r.GetMediaItemInfo_Value(item, "B_LOOPSRC") ~= 0 and (offset + seconds - (limit or length)) * rate > 1
  if unusual or not DIRECT[kind] or path == "" or depth > 1 or value("I_CHANMODE") ~= 0 or loops or offset * rate < -1e-3
    or r.GetTakeNumStretchMarkers(take) + r.TakeFX_GetCount(take) + r.CountTakeEnvelopes(take) > 0 then
    return nil, unusual or "it is not simply a part of its file", true
  end
  local start, stop = (base + offset) * rate, (base + offset + seconds) * rate
  local first = whole(start, math.floor)
  local last = math.min(whole(stop, math.ceil), whole(math.min(length, limit and base + limit or length) * rate, math.floor))
  if last <= first then return nil, "lies behind the end of its recording" end
  local values = { D_STARTOFFS = math.abs(start - first) > 1e-3 and (start - first) / rate or 0 }
  for _, name in ipairs(VALUES) do values[name] = value(name) end
  return { path = path, start_frame = math.tointeger(first), frames = math.tointeger(last - first),
           sample_rate = math.tointeger(rate), values = values, take = text_of(take, "GUID") }
end

local project = r.EnumProjects(-1)

local function find(guid)
  for index = 0, r.CountMediaItems(project) - 1 do
    local item = r.GetMediaItem(project, index)
    if guid_of(item) == guid then return item end
  end
end

local function undo_block(title, work)
  r.PreventUIRefresh(1)
  r.Undo_BeginBlock2(project)
  local ok, problem = xpcall(work, debug.traceback)
  r.Undo_EndBlock2(project, title, 4)
  r.PreventUIRefresh(-1)
  r.UpdateArrange()
  if not ok then error(problem, 0) end
end

local function select_only(guids)
  r.SelectAllMediaItems(project, false)
  for _, guid in ipairs(guids) do local item = find(guid) if item then r.SetMediaItemSelected(item, true) end end
end

local function rendered(guid, selected)
  local item = find(guid)
  local before, original = r.CountTakes(item), text_of(r.GetActiveTake(item), "GUID")
  undo_block(RENDER, function() select_only({ guid }) r.Main_OnCommandEx(41999, 0, project) end)
  local segment, reason = nil, "could not be rendered by REAPER"
  if r.CountTakes(item) > before then segment, reason = segment_of(item) end
  if segment then segment.take = original end
  if r.Undo_CanUndo2(project) == RENDER then r.Undo_DoUndo2(project) end
  select_only(selected)
  return segment, reason
end

-- The run -----------------------------------------------------------------------------------------------------------
math.randomseed(os.time(), math.floor(os.clock() * 1e6))
local id = string.format("%06x", math.random(0, 0xFFFFFF))
local folder = r.GetResourcePath() .. "/SmartDJ/jobs/" .. id
local items, order, troubles, offset, last_seen, text = {}, {}, {}, 0, 0, "SmartDJ: starting"
local rejected, instruction, over = {}, "", false

local function state(key) return r.GetExtState("SmartDJ", key) end
local function message(body, title) r.ShowMessageBox(body, title or "SmartDJ", 0) end
local function sentence(failure) return failure.message .. (failure.hint ~= "" and " (" .. failure.hint .. ")" or "") end

local function finish(line)
  over = true
  if state("busy"):match("^[^;]*") == id then r.SetExtState("SmartDJ", "busy", "", false) end
  r.Help_Set(line, true)
  if #troubles > 0 then message(line .. ".\n\n" .. table.concat(troubles, "\n")) end
end

-- Unbalanced quotes or parentheses make REAPER's dialog ignore the separator, so look-alikes are shown instead.
local LOOKS = { ["'"] = "’", ['"'] = "”", ["`"] = "‘" }
local function ask(title, captions, defaults)
  for index, value in ipairs(defaults) do
    value = value:gsub("['\"`]", LOOKS)
    if select(2, value:gsub("%(", "")) ~= select(2, value:gsub("%)", "")) then value = value:gsub("%(", "❨"):gsub("%)", "❩") end
    defaults[index] = value
  end
  local request = table.concat(captions, ",") .. ",extrawidth=420,separator=\n"
  local ok, answer = r.GetUserInputs(title, #captions, request, table.concat(defaults, "\n"))
  if not ok then return nil end
  local values = {}
  for value in (answer .. "\n"):gmatch("(.-)\n") do values[#values + 1] = value:match("^%s*(.-)%s*$") end
  return values
end

local function review(ids)
  local decision = {}
  for _, item_id in ipairs(ids) do
    local item = items[item_id]
    if #rejected > 0 then message(table.concat(rejected, "\n"), "SmartDJ: plan") end
    if item.question then
      local values = ask(item.name .. ": " .. item.question.text, { "Say it differently" }, { item.question.choices[1] or "" })
      if not values then return nil end
      decision[item_id] = values[1] ~= "" and { instruction = values[1] } or { skip = true }
      item.question = nil
    else
      local captions, defaults, steps, on = {}, {}, { list = true }, false
      for number, step in ipairs(item.steps) do  -- what does not fit into the dialog stays as it is
        if number < FIELDS then
          captions[number], defaults[number] = "Step " .. number, (step.enabled and "" or "- ") .. step["do"]
        end
      end
      captions[#captions + 1], defaults[#defaults + 1] = "Add a step", ""
      local values = ask("SmartDJ: plan for " .. item.name .. ". Empty: leave out; “-” in front: off", captions, defaults)
      if not values then return nil end
      local function add(value, step)
        local off = value:match("^%-%s*(.*)$")
        if (off or value) ~= "" then
          local changed = not step or value ~= defaults[step.number]
          steps[#steps + 1] = { ["do"] = changed and (off or value) or step["do"], enabled = not off, id = step and step.id or nil }
          on = on or not off
        end
      end
      for number = 1, #captions - 1 do item.steps[number].number = number add(values[number] or "", item.steps[number]) end
      for number = FIELDS, #item.steps do steps[#steps + 1] = item.steps[number] on = on or item.steps[number].enabled end
      add(values[#captions] or "", nil)
      decision[item_id] = on and { steps = steps } or { skip = true }
      item.steps = on and steps or item.steps
    end
  end
  rejected = {}
  return decision
end

local function note_of(item, number)
  local done = item.done
  local note = encode({ version = 1, job = id, name = item.name, plan = done.plan, seed = done.seed, mode = done.mode,
    models = done.models, step = number, steps = #item.results, label = item.results[number].label,
    created = os.date("%Y-%m-%dT%H:%M:%S"),
    source = { take = item.take, path = item.path, start_frame = item.start_frame, frames = item.frames,
               sample_rate = item.sample_rate, sha256 = done.source_sha256 } })
  note = note:gsub("[\xC2-\xF4][\x80-\xBF]+", function(c)
    local code = utf8.codepoint(c)
    if code < 0x10000 then return string.format("\\u%04x", code) end
    return string.format("\\u%04x\\u%04x", 0xD800 + (code - 0x10000 >> 10), 0xDC00 + (code - 0x10000 & 0x3FF))
  end)
  return (note:gsub("'", "\\u0027"):gsub("`", "\\u0060"))
end

local function add_takes(item, pointer)
  local last
  for number, step in ipairs(item.results) do
    local source = r.PCM_Source_CreateFromFile(step.path)
    local take = source and r.AddTakeToMediaItem(pointer)
    if take then
      r.SetMediaItemTake_Source(take, source)
      for name, value in pairs(item.values) do r.SetMediaItemTakeInfo_Value(take, name, value) end
      local name = string.format("SmartDJ %d/%d %s", number, #item.results, step.label)
      r.GetSetMediaItemTakeInfo_String(take, "P_NAME", name, true)
      r.GetSetMediaItemTakeInfo_String(take, "P_EXT:smartdj", note_of(item, number), true)
      for k = 1, number do
        for _, span in ipairs(item.results[k].touched_s) do
          r.SetTakeMarker(take, -1, item.results[k].label, span[1], 0)
        end
      end
      last = take
    else
      troubles[#troubles + 1] = "REAPER can't use " .. step.path
    end
  end
  if last then r.SetActiveTake(last) r.UpdateItemInProject(pointer) end
end

local function apply()
  if not r.ValidatePtr(project, "ReaProject*") then
    troubles[#troubles + 1] = "The project is no longer open; nothing was added"
    return finish("SmartDJ: nothing was changed")
  end
  local front = r.EnumProjects(-1)
  if front ~= project then r.SelectProjectInstance(project) end
  local count, usable = 0, {}
  for _, item_id in ipairs(order) do
    local item = items[item_id]
    if item.done and find(item.guid) then usable[#usable + 1] = item
    elseif item.done then troubles[#troubles + 1] = "“" .. item.name .. "” was deleted meanwhile" end
  end
  if #usable > 0 then
    undo_block("SmartDJ: " .. instruction:sub(1, (utf8.offset(instruction, 81) or 0) - 1), function()
      for _, item in ipairs(usable) do count = count + #item.results add_takes(item, find(item.guid)) end
    end)
    r.Main_OnCommandEx(PEAKS, 0, project)
  end
  if front ~= project and r.ValidatePtr(front, "ReaProject*") then r.SelectProjectInstance(front) end
  finish(string.format("SmartDJ: %d takes in %d items", count, #usable))
end

local function take_event(event)
  local item, kind = items[event.item or ""], event.event
  if kind == "review" then
    local decision = review(event.items)
    if not decision then write(folder .. "/cancel", "") else
      write(folder .. "/plan.json", encode({ protocol = 1, items = decision }))
    end
  elseif kind == "plan" then item.steps, item.question = event.plan.steps, nil
  elseif kind == "question" then item.question = event
  elseif kind == "plan_rejected" then rejected[#rejected + 1] = sentence(event.error)
  elseif kind == "step_started" then
    item.step = string.format("%d/%d %s · %s", event.index + 1, event.count, event.plan_step.step, event.device)
  elseif kind == "progress" then
    text = string.format("SmartDJ: %s · %s · %d %% · %.2f × real time", item.name, item.step,
      math.floor(100 * event.fraction), tonumber(event.realtime_factor) or 0)
    r.Help_Set(text, true)
  elseif kind == "step_finished" then item.results[#item.results + 1] = event
  elseif kind == "item_finished" then item.done = event
  elseif kind == "item_failed" then troubles[#troubles + 1] = "“" .. item.name .. "”: " .. sentence(event.error)
  elseif kind == "error" then troubles[#troubles + 1] = sentence(event) apply()
  elseif kind == "finished" then apply()
  elseif kind == "cancelled" then troubles = {} finish("SmartDJ: cancelled, nothing was changed") end
end

local function tick()
  local file = io.open(folder .. "/events.jsonl", "rb")
  if file then
    file:seek("set", offset)
    local data = file:read("a")
    file:close()
    for line in data:gmatch("([^\n]*)\n") do
      offset = offset + #line + 1
      if not over then take_event(decode(line)) end
    end
  end
  if os.time() ~= last_seen and not over then
    last_seen = os.time()
    write(folder .. "/alive", "")
    r.SetExtState("SmartDJ", "busy", id .. ";" .. last_seen .. ";" .. text, false)
    if state("cancel") == id then r.SetExtState("SmartDJ", "cancel", "", false) write(folder .. "/cancel", "") end
  end
end

local function loop()
  local ok, problem = xpcall(tick, debug.traceback)
  if not ok then
    r.ShowConsoleMsg("SmartDJ has stopped because of a mistake of its own; please report this:\n" .. problem .. "\n")
    pcall(write, folder .. "/cancel", "")
    finish("SmartDJ: stopped")
  end
  if not over then r.defer(loop) end
end

local function main()
  local other, seen, doing = state("busy"):match("^([^;]*);(%d+);(.*)$")
  if other and os.time() - tonumber(seen) < 30 then
    local answer = r.ShowMessageBox(doing .. "\n\nStop it? (No: let it go on.)", "SmartDJ is at work", 3)
    if answer == 6 then r.SetExtState("SmartDJ", "cancel", other, false) end
    if answer ~= 7 then return end
  end
  local selected, wanted = {}, {}
  for index = 0, r.CountSelectedMediaItems(project) - 1 do
    selected[#selected + 1] = guid_of(r.GetSelectedMediaItem(project, index))
  end
  if #selected == 0 then return message("Select at least one item.") end
  local helper = state("helper"):match("^%s*(.-)%s*$")
  if helper:sub(1, 7) == "base64:" then helper = base64(helper:sub(8)) end
  if not exists(helper) then
    return message("The program smartdj was not found.\n\nQuit REAPER and run: smartdj reaper install", "SmartDJ is not set up")
  end
  local values = ask("SmartDJ: edit", { "What should it become?" }, { base64(state("instruction")) })
  if not values or values[1] == "" then return end
  instruction = values[1]
  for number, guid in ipairs(selected) do
    local take = r.GetActiveTake(find(guid))
    local name = take and text_of(take, "P_NAME") or ""
    name = name ~= "" and name or "item " .. number
    local segment, reason, render = segment_of(find(guid))
    if render then segment, reason = rendered(guid, selected) end
    if segment then
      segment.id, segment.guid, segment.name, segment.results = "i" .. number, guid, name, {}
      items[segment.id] = segment
      order[#order + 1] = segment.id
      wanted[#wanted + 1] = { id = segment.id, name = name, path = segment.path, start_frame = segment.start_frame,
        frames = segment.frames, sample_rate = segment.sample_rate, folder = r.GetProjectPathEx(project, "") }
    else
      troubles[#troubles + 1] = "“" .. name .. "” " .. reason
    end
  end
  if #order == 0 then return finish("SmartDJ: nothing here can be edited") end
  r.RecursiveCreateDirectory(folder, 0)
  write(folder .. "/job.json", encode({ protocol = 1, id = id, instruction = instruction, review = true,
    seed = math.tointeger(tonumber(state("seed"))) or 0, mode = state("mode") ~= "" and state("mode") or "preserve",
    preset = state("preset") ~= "" and state("preset") or "small", device = state("device") ~= "" and state("device") or "auto",
    server = state("server"), token_file = state("token_file"), tls_ca = state("tls_ca"),
    watch = { heartbeat_s = 900 }, items = wanted }))
  r.atexit(function() if not over then pcall(write, folder .. "/cancel", "") end end)
  r.ExecProcess('"' .. helper .. '" reaper-job "' .. folder .. '"', -2)
  loop()
end

main()
