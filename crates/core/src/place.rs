use burn::tensor::Device;

/// Where a model computes; decided once, when it is loaded.
#[derive(Debug, Clone)]
pub enum Place {
    /// In host memory, with this workspace's CPU kernels; weights are read where the file is mapped. Tensors that cross crate
    /// borders are made on the given device, which must be a CPU device of burn.
    Host(Device),
    /// On this device, with burn tensors: any GPU, and the CPU too. An autodiff device makes the weights trainable.
    Device(Device),
}

/// A [`Place`] without its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceKind {
    /// Host memory.
    Host,
    /// A device with memory of its own.
    Device,
}

impl Place {
    /// The kind of place, without its device.
    pub fn kind(&self) -> PlaceKind {
        match self {
            Place::Host(_) => PlaceKind::Host,
            Place::Device(_) => PlaceKind::Device,
        }
    }

    /// The device of the tensors that cross crate borders.
    pub fn device(&self) -> &Device {
        match self {
            Place::Host(device) | Place::Device(device) => device,
        }
    }

    /// Whether the model computes in host memory, with this workspace's CPU kernels.
    pub fn is_host(&self) -> bool {
        self.kind() == PlaceKind::Host
    }
}
