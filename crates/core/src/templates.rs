//! Templates: images with their minimum sizes.

/// Template of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// Name in requests.
    pub id: &'static str,
    /// Display name.
    pub name: &'static str,
    /// Purpose.
    pub description: &'static str,
    /// Keyword for an icon.
    pub icon: &'static str,
    /// Category in lists.
    pub category: &'static str,
    /// Name of the image.
    pub image: &'static str,
    /// Minimum memory in MiB.
    pub ram_mb: u32,
    /// Minimum number of virtual CPUs.
    pub vcpu_count: u32,
    /// Minimum disk size in MiB.
    pub disk_size_mb: u32,
    /// Apps that a new workspace has from the start.
    pub expected_apps: &'static [ExpectedApp],
}

/// App that a template defines for a program the user is expected to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedApp {
    /// Name within the template.
    pub name: &'static str,
    /// Port the program listens on.
    pub port: u16,
}

/// Template used when a request names none.
pub const DEFAULT: &str = "base";

/// All templates.
pub const ALL: [Template; 2] = [
    Template {
        id: "base",
        name: "Base",
        description: "Debian 12 with Python, Node.js, Git and build tools",
        icon: "terminal",
        category: "general",
        image: "base",
        ram_mb: 512,
        vcpu_count: 1,
        disk_size_mb: 4_096,
        expected_apps: &[],
    },
    Template {
        id: "dev",
        name: "Development",
        description: "The base image with room for building software",
        icon: "code",
        category: "general",
        image: "base",
        ram_mb: 1_024,
        vcpu_count: 2,
        disk_size_mb: 10_240,
        expected_apps: &[ExpectedApp { name: "preview", port: 3000 }],
    },
];

/// Returns the template with this id.
pub fn find(id: &str) -> Option<&'static Template> {
    ALL.iter().find(|template| template.id == id)
}
