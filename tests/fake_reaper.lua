-- A REAPER for the Lua launcher: `lua5.4 fake_reaper.lua LAUNCHER STAGE`, where STAGE is a Lua file that returns a table
-- with resource, media, ext (states), answers (for dialogs), items (each with its take and source) and, optionally,
-- on_tick(reaper, number). Prints what became of everything, one fact a line, parts separated by tabs.
local launcher, stage_file = arg[1], arg[2]
local stage = dofile(stage_file)
local project = { "project" }
local blocks, no_refresh, undo, deferred, leaving, ticks = 0, 0, {}, nil, nil, 0
local items, selected = {}, {}

local function say(...) print(table.concat({ ... }, "\t")) end
local function copy(value)
  if type(value) ~= "table" or value == project then return value end
  local made = {}
  for key, item in pairs(value) do made[key] = copy(item) end
  return made
end
local function changing() assert(blocks > 0, "something was changed outside an undo block") end
local function alive(item)
  for _, other in ipairs(items) do if other == item then return true end end
  error("a pointer of an item that is gone was used")
end
for number, item in ipairs(stage.items) do
  item.guid, item.active, item.selected = "{ITEM-" .. number .. "}", 1, true
  for index, take in ipairs(item.takes) do
    take.guid = string.format("{TAKE-%d-%d}", number, index)
    take.values = setmetatable(take.values or {}, { __index = { D_PLAYRATE = 1, D_VOL = 1 } })
  end
  items[number] = item
end

reaper = {
  EnumProjects = function(index) assert(index == -1) return project, "/song.rpp" end,
  ValidatePtr = function(pointer, kind) return kind == "ReaProject*" and pointer == project and not stage.closed end,
  SelectProjectInstance = function() error("the project is in front") end,
  GetProjectPathEx = function() return stage.media end,
  GetResourcePath = function() return stage.resource end,
  RecursiveCreateDirectory = function(path) os.execute("mkdir -p '" .. path .. "'") return 1 end,
  GetExtState = function(_, key) return stage.ext[key] or "" end,
  SetExtState = function(_, key, value) assert(not value:find("\n")) stage.ext[key] = value end,
  ShowMessageBox = function(text, title, kind) say("box", title, (text:gsub("\n", " / "))) return kind == 3 and 2 or 1 end,
  ShowConsoleMsg = function(text) say("console", (text:gsub("\n", " / "))) end,
  Help_Set = function(text) say("help", text) end,
  GetUserInputs = function(title, count, captions, defaults)
    assert(count <= 16)
    local separator = captions:match("separator=(.)") or ","
    for _, sign in ipairs({ "'", '"', "`" }) do
      if select(2, defaults:gsub(sign, "")) % 2 == 1 then separator = "," end
    end
    say("ask", title, (defaults:gsub("\n", " | ")))
    local answer = table.remove(stage.answers, 1)
    if answer == nil then return false, defaults end
    if answer == "accept" then return true, defaults end
    return true, table.concat(answer, separator)
  end,
  CountSelectedMediaItems = function()
    selected = {}
    for _, item in ipairs(items) do if item.selected then selected[#selected + 1] = item end end
    return #selected
  end,
  GetSelectedMediaItem = function(_, index) reaper.CountSelectedMediaItems() return selected[index + 1] end,
  CountMediaItems = function() return #items end,
  GetMediaItem = function(_, index) return items[index + 1] end,
  SelectAllMediaItems = function(_, on) for _, item in ipairs(items) do item.selected = on end end,
  SetMediaItemSelected = function(item, on) alive(item) item.selected = on end,
  GetMediaItemInfo_Value = function(item, name) alive(item) return item[name] or 0.0 end,
  GetSetMediaItemInfo_String = function(item, name, _, set) assert(name == "GUID" and not set) return true, item.guid end,
  GetActiveTake = function(item) alive(item) return item.takes[item.active] end,
  CountTakes = function(item) alive(item) return #item.takes end,
  AddTakeToMediaItem = function(item)
    changing()
    alive(item)
    local take = { guid = "{NEW-" .. #item.takes + 1 .. "}", values = {}, markers = {}, item = item }
    item.takes[#item.takes + 1] = take
    return take
  end,
  SetActiveTake = function(take)
    changing()
    for index, other in ipairs(take.item.takes) do if other == take then take.item.active = index end end
  end,
  UpdateItemInProject = alive,
  UpdateArrange = function() end,
  GetSetMediaItemTakeInfo_String = function(take, name, value, set)
    if set then changing() take[name] = value return true, value end
    if name == "GUID" then return true, take.guid end
    return take[name] ~= nil, take[name] or ""
  end,
  GetMediaItemTakeInfo_Value = function(take, name) return take.values[name] or 0.0 end,
  SetMediaItemTakeInfo_Value = function(take, name, value) changing() take.values[name] = value return true end,
  TakeIsMIDI = function(take) return take.source.kind == "MIDI" end,
  GetTakeNumStretchMarkers = function(take) return take.stretch or 0 end,
  TakeFX_GetCount = function(take) return take.effects or 0 end,
  CountTakeEnvelopes = function() return 0 end,
  SetTakeMarker = function(take, index, name, at) assert(index == -1) changing() take.markers[#take.markers + 1] = at .. " " .. name end,
  GetMediaItemTake_Source = function(take) return take.source end,
  SetMediaItemTake_Source = function(take, source) changing() take.source = source return true end,
  PCM_Source_CreateFromFile = function(path)
    local file = io.open(path, "rb")
    if not file then return nil end
    file:close()
    return { kind = "WAVE", path = path, rate = 1, length = 1 }
  end,
  GetMediaSourceParent = function(source) return source.parent end,
  PCM_Source_GetSectionInfo = function(source) return true, source.offset, source.length, source.reverse or false end,
  GetMediaSourceType = function(source) return source.kind end,
  GetMediaSourceFileName = function(source) return source.path or "" end,
  GetMediaSourceSampleRate = function(source) return source.rate or 0 end,
  GetMediaSourceLength = function(source) return source.length or 0.0, false end,
  PreventUIRefresh = function(count) no_refresh = no_refresh + count assert(no_refresh >= 0) end,
  Undo_BeginBlock2 = function() blocks = blocks + 1 undo[#undo + 1] = { items = copy(items) } end,
  Undo_EndBlock2 = function(_, title, flags) assert(flags == 4) blocks = blocks - 1 undo[#undo].title = title end,
  Undo_CanUndo2 = function() return undo[#undo] and undo[#undo].title end,
  Undo_DoUndo2 = function() items = table.remove(undo).items return 1 end,
  Main_OnCommandEx = function(command)
    if command == 40047 then return end
    assert(command == 41999)
    for _, item in ipairs(items) do
      if item.selected and item.rendered then
        item.takes[#item.takes + 1] = { guid = "{RENDERED}", values = { D_PLAYRATE = 1.0, D_VOL = 1.0 }, source = item.rendered }
        item.active = #item.takes
      end
    end
  end,
  ExecProcess = function(command, timeout)
    assert(timeout == -2, "must not wait")
    os.execute(command .. " >> '" .. stage.resource .. "/helper.log' 2>&1 < /dev/null &")
  end,
  defer = function(work) deferred = work end,
  atexit = function(work) leaving = work end,
}

dofile(launcher)
local by = os.time() + 60
while deferred do
  local work = deferred
  deferred = nil
  work()
  ticks = ticks + 1
  assert(blocks == 0 and no_refresh == 0, "left open")
  assert(os.time() < by, "this takes too long")
  if stage.on_tick and stage.on_tick(reaper, items) == "quit" then break end
  if deferred then os.execute("sleep 0.02") end
end
if leaving then leaving() end
for _, item in ipairs(items) do
  say("item", item.guid, tostring(item.active), tostring(item.selected))
  for _, take in ipairs(item.takes) do
    local values = take.values
    say("take", take.P_NAME or "", take.source and take.source.path or "", take["P_EXT:smartdj"] or "",
      table.concat(take.markers or {}, ";"), tostring(values.D_STARTOFFS or 0), tostring(values.D_PLAYRATE))
  end
end
for _, point in ipairs(undo) do say("undo", point.title) end
say("ticks", tostring(ticks))
