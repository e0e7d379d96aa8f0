//! (stands here for the workspace to resolve)
