// The public API of `dynamoe/log`: loggers and the events of a run. A config file may list `loggers`; a training loop
// of your own calls them itself.
export type {
  DoneEvent,
  EvalEvent,
  FailEvent,
  LogEvent,
  PlanEvent,
  SaveEvent,
  StartEvent,
  StepEvent,
  StopEvent,
  TrainEvent,
} from './train/events.ts';
export type { RecompileEvent } from './recompile/rule.ts';
export type { Logger, RunInfo } from './train/logger.ts';
export { jsonLines } from './train/json-lines.ts';
export { stepEvent, type Measured } from './train/step-event.ts';
export { tensorBoard } from './train/tensorboard.ts';
